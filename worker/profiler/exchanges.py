"""Times exchanges, alone and beside compute."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from liger.domain import SegmentKind
from worker.communicator.base import PLACES, Communicator, Exchange
from worker.profiler.agreement import Agreement
from worker.profiler.batches import TimedBatch, turns
from worker.profiler.choices import Choice, Choosing
from worker.profiler.contention import balanced, factors
from worker.profiler.plan import ExchangeSize
from worker.profiler.sweep import Run
from worker.timing.base import Stopwatch
from worker.timing.budget import LaunchBudget

PARTS_PER_MILLION: Final = 1_000_000
_SLOT: Final = 0  # whose memory is exchanged
_NUM_IN_FLIGHT: Final = 2  # slots whose exchanges are timed in turn
_ROUNDS: Final = 4


class ExchangeBench:
    """Exchanges of this rank's stage, in which all its ranks take part.

    Where work runs later the ranks meet twice: on the host, and by a small exchange behind the wait that a run begins
    with, so that an exchange is timed from when all ranks' lanes are there.

    Args:
        communicator: Of the stage.
        agreement: Of its hosts.
        hidden_size: Width of activations.
        dtype: Of activations.
        device: Where they are.
        stopwatch: Times the lanes.
        num_slots: Batches in flight at once, at most.
    """

    def __init__(
        self,
        communicator: Communicator,
        agreement: Agreement,
        *,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
        stopwatch: Stopwatch,
        num_slots: int = 1,
    ) -> None:
        self._num_slots = num_slots
        self._communicator = communicator
        self._agreement = agreement
        self._hidden_size = hidden_size
        self._dtype = dtype
        self._device = device
        self._stopwatch = stopwatch
        self._choice: Choice | None = None

    def choose(self, choice: Choice) -> None:
        """Exchange in the ways that a choice names, where there are several."""
        self._choice = choice
        self._take(is_beside=False)

    def exchange(self, cell: ExchangeSize) -> Run:
        """Return what measures one exchange: its nanoseconds, from when all ranks are there.

        Of an all-reduce on a device with several slots also how long it keeps the lane while another slot's is under
        way: copies of both overlap.
        """
        if cell.segment is SegmentKind.GATHER:
            part = torch.zeros(2 * cell.size, device=self._device)  # a value and an id for each row
            return self._alone([lambda: self._communicator.all_gather(part)])
        alone = self._alone(self._begins(cell.size))
        if not self._stopwatch.runs_later or self._num_slots < _NUM_IN_FLIGHT:
            return alone
        in_turn = self._in_turn(cell.size)
        return lambda: (*alone(), *in_turn())

    def trial(self, name: str, batch: TimedBatch, exchange_tokens: int) -> Run:
        """Return what measures one way to exchange: nanoseconds alone, beside compute, and of compute's delay by it."""
        alone = self._alone(self._begins(exchange_tokens))
        self.choose(lambda *_: name)
        beside = self.co_run(batch, SegmentKind.MLP, exchange_tokens)

        def run() -> tuple[int, ...]:
            self.choose(lambda *_: name)
            (alone_ns,) = alone()
            compute_factor, exchange_factor = (part / PARTS_PER_MILLION for part in beside())
            beside_ns = round(alone_ns * exchange_factor)
            return alone_ns, beside_ns, round(beside_ns * (1 - 1 / compute_factor))

        return run

    def co_run(self, batch: TimedBatch, kind: SegmentKind, exchange_tokens: int) -> Run:
        """Return what measures compute beside all-reduces: the factors of both, in millionths."""
        act = batch.begin()
        num_computes, partials = 1, self._partials(exchange_tokens, 1)

        def compute() -> None:
            for turn in range(num_computes):
                batch.compute(kind, act, turn)

        def each_alone() -> tuple[int, int]:
            computed_ns, _ = self._together(compute, (), computing)
            return computed_ns, self._together(lambda: None, partials, exchanging)[1]

        computing, exchanging, both = (LaunchBudget(2) for _ in range(3))
        self._together(compute, partials, both)  # the first run of a shape takes longer
        compute_ns, exchange_ns = self._agreement.slowest(each_alone())
        num_computes, num_exchanges = balanced(compute_ns, exchange_ns, self._stopwatch.enough_ns)
        partials = self._partials(exchange_tokens, num_exchanges)
        computing, exchanging, both = map(
            LaunchBudget, (num_computes, num_exchanges + 1, num_computes + num_exchanges + 1)
        )

        def run() -> tuple[int, ...]:
            alone_ns = each_alone()
            self._take(is_beside=True)
            together_ns = self._together(compute, partials, both)
            self._take(is_beside=False)
            return tuple(round(factor * PARTS_PER_MILLION) for factor in factors(alone_ns, together_ns))

        return run

    def _take(self, *, is_beside: bool) -> None:
        """Let exchanges go the way that is chosen for alone, or for beside compute."""
        choice = self._choice
        if choice is not None and isinstance(self._communicator, Choosing):
            self._communicator.set_choice(lambda num_bytes, _: choice(num_bytes, is_beside))

    def _partials(self, num_tokens: int, count: int) -> list[Tensor]:
        """Return what all-reduces exchange one after another: memory of a slot's places in turn, as in a forward."""
        return [self._partial(num_tokens, place % PLACES) for place in range(count)]

    def _partial(self, num_tokens: int, place: int, slot: int = _SLOT) -> Tensor:
        return self._communicator.partial(slot, place, (num_tokens, self._hidden_size), self._dtype).zero_()

    def _begins(self, num_tokens: int) -> list[Callable[[], Exchange]]:
        """Return what begins all-reduces, as many as are timed in a row."""
        count = turns(num_tokens) if self._stopwatch.runs_later else 1

        def begin(partial: Tensor) -> Callable[[], Exchange]:
            return lambda: self._communicator.all_reduce(partial)

        return [begin(partial) for partial in self._partials(num_tokens, count)]

    def _alone(self, begins: Sequence[Callable[[], Exchange]]) -> Run:
        """Return what measures one of some exchanges, each begun when the one before is done."""
        watch, budget = self._stopwatch, LaunchBudget(len(begins) + 1)

        def run() -> tuple[int, ...]:
            self._meet(budget)
            began = watch.mark()
            for begin in begins:
                begin().wait()
            ended = watch.mark()
            budget.learn(watch.settle())
            return (watch.between_ns(began, ended) // len(begins),)

        return run

    def _in_turn(self, num_tokens: int) -> Run:
        """Return what measures one of many exchanges, of slots in turn, each begun when its slot's last is done."""
        watch, budget = self._stopwatch, LaunchBudget(_NUM_IN_FLIGHT * _ROUNDS + 1)
        partials = [
            [self._partial(num_tokens, place, slot) for place in range(PLACES)] for slot in range(_NUM_IN_FLIGHT)
        ]

        def run() -> tuple[int, ...]:
            self._meet(budget)
            began = watch.mark()
            under_way: list[Exchange | None] = [None] * _NUM_IN_FLIGHT
            for turn in range(_ROUNDS):
                for slot, places in enumerate(partials):
                    _finish(under_way[slot])
                    under_way[slot] = self._communicator.all_reduce(places[turn % PLACES])
            for exchange in under_way:
                _finish(exchange)
            ended = watch.mark()
            budget.learn(watch.settle())
            return (watch.between_ns(began, ended) // (_NUM_IN_FLIGHT * _ROUNDS),)

        return run

    def _together(
        self, compute: Callable[[], None], partials: Sequence[Tensor], budget: LaunchBudget
    ) -> tuple[int, int]:
        """Run compute beside exchanges back to back; return when each was done, counted from the common begin."""
        watch = self._stopwatch
        if partials:
            self._meet(budget)
        else:
            watch.hold(budget.expected_ns)
        began = watch.mark()
        exchanges = [self._communicator.all_reduce(partial) for partial in partials]
        computed, exchanged = watch.beside(compute, exchanges)
        budget.learn(watch.settle())
        return watch.between_ns(began, computed), watch.between_ns(began, exchanged)

    def _meet(self, budget: LaunchBudget) -> None:
        """Wait until all ranks are here, and where work runs later let their lanes meet before what is launched."""
        self._agreement.meet()
        if self._stopwatch.runs_later:
            self._stopwatch.hold(budget.expected_ns)
            self._communicator.all_reduce(self._partial(1, PLACES - 1)).wait()


def _finish(exchange: Exchange | None) -> None:
    if exchange is not None:
        exchange.wait()
