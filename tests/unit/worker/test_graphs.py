"""What is captured of windows and when it is replayed; a stand-in captures, as real graphs need a device."""

from types import SimpleNamespace

import pytest

from liger.domain import BatchKind, SegmentKind
from tests.support.forwards import FENCE, forwards_of, pattern_of, step_of
from worker.devices.capturer import Relayed
from worker.graphs import GraphedLaunches
from worker.rank import JoinPlan
from worker.slots import Slot, Work
from worker.templates import Templates

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


PLAN = JoinPlan(
    fence=FENCE,
    tp_rank=0,
    tp_size=2,
    pp_stage=0,
    pp_size=1,
    rendezvous_endpoint="",
    num_slots=4,
    max_batch_tokens=64,
    num_rows=8,
    stage_layers=(2,),
)


def pattern_for(*slots, stop=LAST_EXCHANGE):
    """The segments of slots' batches up to `stop`, in turn."""
    steps = [
        step_of(FORWARD, place, operand=operand, begin=slot.position)
        for place in range(min(slot.position for slot in slots), stop + 1)
        for operand, slot in enumerate(slots)
        if place >= slot.position
    ]
    return pattern_of(steps, *[BatchKind.DECODE] * len(slots))


def template_of(*slots, templates=None, **span):
    standing = tuple((slot.start.kind, slot.position) for slot in slots)
    return (templates or Templates(PLAN, forwards_of(2))).find(pattern_for(*slots, **span), standing)


def runs_of(*slots, **span):
    return [(run.may_be_captured, [one.place for one in run.steps]) for run in template_of(*slots, **span).runs]


class Device:
    """Captures by running nothing, and notes what is launched."""

    def __init__(self, *, most_bytes=1 << 30, most_graphs=8, fails=False):
        self.eager, self.captured, self.replays, self.relays = [], [], 0, []
        self.held_bytes = self.let_go_of = 0
        self.wants_steps = False
        self.inputs = Inputs()
        self._fails = fails
        self._is_capturing = False
        self.version = 0
        self.templates = Templates(PLAN, forwards_of(2))
        self.graphs = GraphedLaunches(
            capturer=self,
            prepare=self._prepare,
            arena=lambda _: self,
            wants_steps=lambda: self.wants_steps,
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

    def relay(self, slot, exchanges):
        self.relays.append(slot)
        return Relayed(exchanges[0].wait())

    def let_go(self, graphs):
        self.let_go_of += len(graphs)
        self.held_bytes = 0

    def launch(self, planned, slot):
        (self.captured if self._is_capturing else self.eager).append(planned.place)
        slot.work.partial = planned.place  # stands for what the segment leaves
        slot.work.exchanges = [UnderWay()] if planned.segment.kind is SegmentKind.ALL_REDUCE else []

    def run(self, *slots, **span):
        self.eager.clear()
        for run in template_of(*slots, templates=self.templates, **span).runs:
            self.graphs(run, slots, self.launch)

    def _prepare(self, slot):
        slot.work.inputs = slot.work.inputs or self.inputs
        return slot.work.inputs


class UnderWay:
    def __init__(self, address=7):
        self.addend = SimpleNamespace(data_ptr=lambda: address)

    def wait(self):
        return (self.addend,)


def test_heads_and_trailing_exchanges_stay_out_of_a_run():
    assert runs_of(a_slot(), stop=11) == [(True, list(range(8))), (False, [8]), (False, [9, 10, 11])]


def test_short_runs_are_launched_one_by_one():
    assert all(not is_captured for is_captured, _ in runs_of(a_slot(position=7)))


def test_every_step_is_in_one_run_and_in_order():
    template = template_of(a_slot(), a_slot(1, 3), stop=11)
    assert [one.place for run in template.runs for one in run.steps] == list(range(template.num_steps))
    assert template.advances == ((0, 12), (1, 9))


def test_the_same_steps_have_one_number_whatever_pattern_they_are_in():
    templates = Templates(PLAN, forwards_of(2))
    short, long = (template_of(a_slot(), templates=templates, stop=stop) for stop in (8, 11))
    other = template_of(a_slot(position=1), templates=templates)
    assert short.runs[0].number == long.runs[0].number != other.runs[0].number


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
        device.graphs(template_of(slot, templates=device.templates).runs[0], [slot], device.launch)
        works.append((slot.work.partial, slot.work.inputs, [each.wait()[0].data_ptr() for each in slot.work.exchanges]))
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
    assert len(device.eager) == template_of(slot).num_steps


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


def test_graphs_go_together_when_they_are_too_many():
    few = Device(most_graphs=2)
    for number in range(3):
        for _ in range(2):
            few.run(a_slot(number))
    assert few.let_go_of == 2
    assert few.graphs.num_graphs == 1
    for _ in range(2):
        few.run(a_slot(0))
    assert few.graphs.num_graphs == 2


def test_nothing_is_captured_beyond_the_memory_for_it():
    small = Device(most_bytes=5)
    for number in range(3):
        for _ in range(3):
            small.run(a_slot(number))
    assert small.graphs.num_graphs == 1


def test_windows_whose_steps_are_to_be_timed_are_launched_one_by_one():
    device = Device()
    device.wants_steps = True
    for _ in range(4):
        device.run(a_slot())
    assert device.graphs.num_graphs == 0


def test_a_graph_is_not_replayed_on_other_addends_than_it_was_captured_with():
    device = Device()
    for address in (7, 7, 7, 9):
        slot = a_slot(position=1)
        slot.work = Work(exchanges=[UnderWay(address)])
        device.run(slot)
    assert device.replays == 2
    assert len(device.eager) == 8


def test_graphs_wait_for_exchanges_begun_before_them():
    device = Device()
    for _ in range(3):
        slot = a_slot(position=1)
        slot.work = Work(exchanges=[UnderWay()])
        device.run(slot)
    assert device.relays == [0, 0, 0]  # once a window
    assert device.replays == 2


def test_batches_that_run_together_are_captured_together():
    device = Device()
    for _ in range(3):
        device.run(a_slot(), a_slot(1))
    assert len(device.captured) == 17 - 1  # up to the last MLP
    assert device.replays == 2


def test_a_run_that_could_not_be_captured_goes_on_with_what_was_begun_before_it():
    device = Device(fails=True)
    for _ in range(2):
        slot = a_slot(position=1)
        slot.work = Work(exchanges=[UnderWay()])
        device.run(slot)
    assert device.eager[0] == 0
    assert device.relays == [0, 0]
