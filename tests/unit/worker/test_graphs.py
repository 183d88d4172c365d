"""What is captured of windows and when it is replayed; a stand-in captures, as real graphs need a device."""

from types import SimpleNamespace

import pytest

from liger.domain import BatchKind
from tests.support.forwards import forwards_of, pattern_of, step_of
from worker.communicator.local import DoneExchange
from worker.executor import Launch
from worker.graphs import GraphedLaunches, runs
from worker.slots import Slot, Work

FORWARD = forwards_of(2)[BatchKind.DECODE]  # embed, 4 × (compute, all-reduce), head, gather, sample
LAST_EXCHANGE = 8


class Inputs:
    token_ids = token_type_ids = None

    def __init__(self, bucket="a", size=8):
        self.attend = SimpleNamespace(bucket=bucket)
        self.positions = [0] * size


def a_slot(number=0, position=0):
    start = SimpleNamespace(slot=number, kind=BatchKind.DECODE, batch_id=number)
    return Slot(start=start, claim=None, position=position)


def launches_of(*slots, stop=LAST_EXCHANGE):
    """The segments of slots' batches up to `stop`, in turn."""
    found = []
    for place in range(min(slot.position for slot in slots), stop + 1):
        for operand, slot in enumerate(slots):
            if place >= slot.position:
                step = step_of(FORWARD, place, operand=operand, begin=slot.position)
                found.append(Launch(len(found), step, slot, FORWARD[place]))
    return found


class Device:
    """Captures by running nothing, and notes what is launched."""

    def __init__(self, *, most_bytes=1 << 30, most_graphs=8, fails=False):
        self.eager, self.captured, self.replays, self.relays = [], [], 0, []
        self.held_bytes = 0
        self.inputs = Inputs()
        self._fails = fails
        self._is_capturing = False
        self.version = 0
        self.graphs = GraphedLaunches(
            capturer=self,
            prepare=self._prepare,
            arena=lambda _: self,
            most_graphs=most_graphs,
            most_bytes=most_bytes,
        )

    def capture(self, launch):
        if self._fails:
            raise RuntimeError("not in a graph")
        self._is_capturing = True
        launch()
        self._is_capturing = False
        self.held_bytes += 10
        return self

    def replay(self):
        self.replays += 1

    def relay(self, slot, exchange):
        self.relays.append(slot)
        return DoneExchange(*exchange.wait())

    def launch(self, one):
        (self.captured if self._is_capturing else self.eager).append(one.place)
        one.slot.work.partial = one.place  # stands for what the segment leaves
        if one.segment.kind.name == "ALL_REDUCE":
            one.slot.work.exchanges = [UnderWay()]
        else:
            one.slot.work.exchanges = []

    def run(self, *slots, **span):
        self.eager.clear()
        self.graphs(launches_of(*slots, **span), self.launch)

    def _prepare(self, slot):
        slot.work.inputs = slot.work.inputs or self.inputs
        return slot.work.inputs


class UnderWay:
    def wait(self):
        return ("addend",)


def test_heads_and_trailing_exchanges_stay_out_of_a_run():
    slot = a_slot()
    cut = [(is_captured, [one.place for one in run]) for is_captured, run in runs(launches_of(slot, stop=11))]
    assert cut == [(True, list(range(8))), (False, [8]), (False, [9, 10, 11])]


def test_short_runs_are_launched_one_by_one():
    assert all(not is_captured for is_captured, _ in runs(launches_of(a_slot(position=7))))


def test_every_step_is_in_one_run_and_in_order():
    launches = launches_of(a_slot(), a_slot(1, 3), stop=11)
    assert [one for _, run in runs(launches) for one in run] == launches


def test_what_comes_again_is_captured_once_and_then_replayed():
    device = Device()
    for _ in range(5):
        device.run(a_slot())
    assert device.graphs.num_graphs == 1
    assert device.captured == list(range(8))
    assert (device.replays, device.eager) == (4, [8])


def test_a_replayed_run_leaves_its_slots_as_an_eager_one_does():
    device = Device()
    works = []
    for _ in range(3):
        slot = a_slot()
        device.graphs(launches_of(slot)[:8], device.launch)
        works.append((slot.work.partial, slot.work.inputs, [each.wait() for each in slot.work.exchanges]))
    assert works[0] == works[1] == works[2]


def test_replayed_work_is_its_own():
    device = Device()
    slots = [a_slot() for _ in range(4)]
    for slot in slots:
        device.run(slot)
    assert len({id(slot.work) for slot in slots}) == 4
    assert slots[2].work.exchanges is not slots[3].work.exchanges


@pytest.mark.parametrize("change", ["bucket", "size", "slot", "version", "position"])
def test_what_a_graph_holds_fixed_must_be_the_same(change):
    device = Device()
    for _ in range(3):
        device.run(a_slot())
    replays = device.replays
    slot = a_slot(1 if change == "slot" else 0, 1 if change == "position" else 0)
    device.inputs = Inputs(bucket="b" if change == "bucket" else "a", size=16 if change == "size" else 8)
    device.version = 1 if change == "version" else 0
    device.run(slot)
    assert device.replays == replays
    assert len(device.eager) == len(launches_of(slot))


def test_batches_without_a_bucket_are_never_captured():
    device = Device()
    device.inputs = Inputs(bucket=None)
    for _ in range(4):
        device.run(a_slot())
    assert (device.graphs.num_graphs, device.replays) == (0, 0)


def test_what_cannot_be_captured_stays_eager_and_is_tried_once(caplog):
    device = Device(fails=True)
    for _ in range(4):
        device.run(a_slot())
        assert device.eager == list(range(9))
    assert len(caplog.records) == 1
    assert "stays eager" in caplog.text


def test_graphs_are_few_and_their_memory_is_bounded():
    few = Device(most_graphs=2)
    for number in range(3):
        for _ in range(2):
            few.run(a_slot(number))
    assert few.graphs.num_graphs == 2
    small = Device(most_bytes=5)
    for number in range(3):
        for _ in range(3):
            small.run(a_slot(number))
    assert small.graphs.num_graphs == 1


def test_graphs_wait_for_exchanges_begun_before_them():
    device = Device()
    for _ in range(3):
        slot = a_slot(position=1)
        slot.work = Work(exchanges=[UnderWay()])
        device.run(slot)
    assert device.relays == [0, 0, 0]  # once for the capture, and once a replay


def test_patterns_of_several_batches_are_captured_whole():
    device = Device()
    for _ in range(3):
        device.run(a_slot(), a_slot(1))
    assert pattern_of([one.step for one in launches_of(a_slot(), a_slot(1))], BatchKind.DECODE, BatchKind.DECODE)
    assert len(device.captured) == 17 - 1  # up to the last MLP
    assert device.replays == 2
