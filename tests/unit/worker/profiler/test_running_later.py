"""What a profile takes where work runs later than it is launched, and where there are several ways to exchange."""

import time
from collections.abc import Callable, Sequence

import pytest
import torch

from liger.domain import BatchKind, SegmentKind
from tests.unit.worker.profiler.measuring import measured, together
from worker.communicator.base import Communicator, Exchange
from worker.profiler.choices import choice_of
from worker.timing.host import HostStopwatch


class LaterStopwatch(HostStopwatch):
    """A host's stopwatch that is used like a device's, and insists on the order of a run."""

    runs_later = True
    enough_ns = 100_000

    def __init__(self) -> None:
        super().__init__()
        self.held: list[int] = []
        self._is_open = False

    def hold(self, launch_ns: int) -> None:
        assert not self._is_open, "a run begins when the one before is settled"
        self._is_open = True
        self.held.append(launch_ns)

    def mark(self) -> int:
        assert self._is_open, "marks belong to a run"
        return super().mark()

    def beside(self, compute: Callable[[], None], exchanges: Sequence[Exchange]) -> tuple[int, int]:
        compute()
        computed = self.mark()
        for exchange in exchanges:
            exchange.wait()
        return computed, self.mark()

    def settle(self) -> int:
        assert self._is_open
        self._is_open = False
        return 1_000

    def between_ns(self, begin: int, end: int) -> int:
        assert not self._is_open, "marks are read once the run is settled"
        return super().between_ns(begin, end)


class Places:
    """Insists that a slot's exchanges take turns between its places, as far as one run goes."""

    def __init__(self, inner: Communicator) -> None:
        self._inner = inner
        self.rank, self.world_size, self.timed = inner.rank, inner.world_size, False
        self._place_of: dict[int, tuple[int, int]] = {}  # slot and place, by address
        self._memory: dict[tuple[int, int, tuple[int, int]], torch.Tensor] = {}
        self.places: dict[int, list[int]] = {}  # that were exchanged, by slot

    def partial(self, slot, place, shape, dtype):
        """Return the same memory each time, as on a device."""
        key = (slot, place, shape)
        if key not in self._memory:
            self._memory[key] = self._inner.partial(slot, place, shape, dtype)
            self._place_of[self._memory[key].data_ptr()] = slot, place
        return self._memory[key]

    def all_reduce(self, partial):
        slot, place = self._place_of[partial.data_ptr()]
        self.places.setdefault(slot, []).append(place)
        return self._inner.all_reduce(partial)

    def all_gather(self, part):
        for places in self.places.values():
            places.append(-1)
        return self._inner.all_gather(part)


class SeveralWays(Places):
    """Two ways to exchange, of which one takes a millisecond longer. Implements `Choosing`."""

    names = ("slow", "plain")

    def __init__(self, inner: Communicator) -> None:
        super().__init__(inner)
        self.choice = lambda num_bytes, is_beside: "slow"
        self.num_choices = 0

    def set_choice(self, choice):
        self.choice = choice
        self.num_choices += 1

    def all_reduce(self, partial):
        if self.choice(partial.nbytes, False) == "slow":
            end_ns = time.perf_counter_ns() + 1_000_000
            while time.perf_counter_ns() < end_ns:
                pass
        return super().all_reduce(partial)


@pytest.fixture
def later(ranks):
    """Return a function that makes ranks with a stopwatch of their own and one kind of communicator."""

    def make(kind: type[Places], name: str = "llama", epoch: int = 1, **settings):
        made = []
        pair = ranks(name, epoch=epoch, **settings)
        for rank in pair:
            rank.stopwatch = LaterStopwatch()
            rank.wrap = lambda stage: made.append(kind(stage)) or made[-1]
        return pair, made

    return make


def test_all_segments_are_measured_in_runs_that_are_held_and_settled(later):
    pair, _ = later(Places)
    one, other = together(pair)
    assert one == other
    assert {sample.batch for sample in one.segments} == {None, *BatchKind}
    assert {sample.segment for sample in one.segments if sample.batch is BatchKind.DECODE} == {
        SegmentKind.EMBED,
        SegmentKind.ATTENTION,
        SegmentKind.MLP,
        SegmentKind.HEAD,
        SegmentKind.SAMPLE,
    }
    assert one.contention
    assert one.exchange_choices == ()
    assert all(rank.stopwatch.held for rank in pair)


def test_kernels_are_compiled_before_anything_is_measured(later):
    pair, _ = later(Places)
    together(pair, limit_s=5.0)
    phases = list(dict.fromkeys(phase for phase, _ in pair[0].said))
    assert phases == ["warming up", "measuring segments", "measuring exchanges", "measuring co-runs"]


def test_an_exchange_is_behind_one_of_the_other_place(later):
    pair, made = later(Places)
    together(pair)
    for communicator in made:
        for places in communicator.places.values():
            alike = [place for place, before in zip(places[1:], places, strict=False) if place == before]
            starts = [place for place in alike if place >= 0]
            assert set(starts) <= {1}, "only the exchange by which ranks meet may follow its like, as hosts met before"


def test_all_reduces_tell_how_long_they_keep_the_lane_where_several_slots_exchange(later):
    pair, made = later(Places)
    table, _ = together(pair)
    reduces = [sample for sample in table.segments if sample.segment is SegmentKind.ALL_REDUCE]
    assert reduces
    assert all(0 < sample.held_ns <= sample.duration_ns for sample in reduces)
    assert all(sample.held_ns == 0 for sample in table.segments if sample.segment is not SegmentKind.ALL_REDUCE)
    assert set(made[0].places) == {0, 1}


def test_ways_to_exchange_are_compared_and_the_better_is_taken(later):
    pair, made = later(SeveralWays)
    one, other = together(pair)
    assert one == other
    assert {each.communicator for each in one.exchange_choices} == {"slow", "plain"}
    alone = {each.communicator for each in one.exchange_choices if each.is_chosen and not each.is_beside_compute}
    assert alone == {"plain"}
    expected = choice_of(one.exchange_choices, one.activation_bytes, "slow")
    for communicator in made:
        assert [communicator.choice(size, True) for size in (1, 1000, 10**6)] == [
            expected(size, True) for size in (1, 1000, 10**6)
        ]


def test_ranks_that_remember_take_the_way_that_they_took(later):
    first, _ = later(SeveralWays)
    (table, _) = together(first)
    again, made = later(SeveralWays, epoch=2)
    assert together(again) == [table, table]
    assert not any(map(measured, again))
    assert [communicator.num_choices for communicator in made] == [1, 1]
    assert all(communicator.choice(1, False) == "plain" for communicator in made)


def test_ways_to_exchange_are_part_of_what_a_profile_is_of(later):
    one, _ = together(later(Places)[0])
    other, _ = together(later(SeveralWays, epoch=2)[0])
    assert one.key != other.key
