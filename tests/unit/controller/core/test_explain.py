from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.cost_model import CostModel
from controller.core.explain import explain
from controller.core.plan import Topology
from liger.domain import BatchKind, Lane, SegmentKind
from liger.errors import InvalidRequestError
from liger.spans import hidden_share
from liger.views import Explained, PlannedBatch
from tests.support.forwards import forwards_of
from tests.support.made_loads import Speeds, speeds

BALANCED = Speeds(20_000, 30_000, 100_000)
THREE = (512, 512, 256)


def explained(sizes, depth=3, *, speed=BALANCED, stage_layers=(12,), kind=BatchKind.ENCODE) -> Explained:
    return explain(
        [PlannedBatch(kind=kind, num_tokens=size) for size in sizes],
        depth,
        forwards=forwards_of(*stage_layers),
        topology=Topology(tp_size=2, pp_size=len(stage_layers)),
        costs=CostModel(speed.table()),
    )


def check_lanes(found: Explained) -> None:
    lanes = defaultdict(list)
    for span in found.spans:
        assert span.begin_ns <= span.end_ns
        lanes[span.rank, span.lane].append((span.begin_ns, span.end_ns))
    for spans in lanes.values():
        assert all(before[1] <= after[0] + 1 for before, after in pairwise(sorted(spans))), "rounded to 1 ns"


def test_three_batches_share_the_lanes_and_end_before_they_would_in_turn():
    found = explained(THREE)
    check_lanes(found)
    assert found.makespan_ns < 0.75 * found.serial_ns
    assert found.finish_ns[0] < found.makespan_ns == max(found.finish_ns)
    assert hidden_share(found.spans) > 0.7
    assert {span.batch_id for span in found.spans} == {1, 2, 3}
    assert found.cost_version == 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([1, 64, 128, 512, 1024]), min_size=1, max_size=4),
    st.integers(1, 4),
    speeds(contentions=(1.0,)),
    st.sampled_from([(1,), (6,), (2, 3)]),
)
def test_no_plan_ends_after_one_batch_after_another(sizes, depth, speed, stage_layers):
    found = explained(sizes, depth, speed=speed, stage_layers=stage_layers)
    check_lanes(found)
    assert found.makespan_ns <= found.serial_ns * 1.02


def test_every_segment_is_told_once_in_order():
    found = explained(THREE)
    forward = forwards_of(12)[BatchKind.ENCODE]
    for batch_id in (1, 2, 3):
        of_batch = [span for span in found.spans if span.batch_id == batch_id and span.piece == 0]
        of_batch.sort(key=lambda span: span.begin_ns)
        assert [(span.segment, span.layer) for span in of_batch] == [(each.kind, each.layer) for each in forward]


def test_no_more_batches_than_the_depth_are_in_flight():
    found = explained((256,) * 5, depth=2)
    of_windows = defaultdict(set)
    for span in found.spans:
        of_windows[span.window].add(span.batch_id)
    assert max(len(batch_ids) for batch_ids in of_windows.values()) == 2


def test_at_depth_one_a_small_batch_takes_its_serial_time():
    found = explained((16, 16), depth=1)
    assert found.makespan_ns == pytest.approx(found.serial_ns, rel=0.02)
    communicating = [span for span in found.spans if span.lane is Lane.COMMUNICATION]
    assert len(communicating) == 2 * (12 * 2 + 1)


def test_the_same_question_has_the_same_answer():
    assert explained(THREE) == explained(THREE)


def test_a_kind_that_the_model_does_not_run_is_refused():
    forwards = {BatchKind.ENCODE: forwards_of(2)[BatchKind.ENCODE]}
    with pytest.raises(InvalidRequestError, match="no decode batches"):
        explain(
            [PlannedBatch(kind=BatchKind.DECODE, num_tokens=4, context=9)],
            1,
            forwards=forwards,
            topology=Topology(),
            costs=CostModel(BALANCED.table()),
        )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([32, 64, 128]), min_size=2, max_size=4),
    speeds(),
    st.lists(st.sampled_from([0.2, 0.5, 1.0, 2.0, 4.0]), min_size=32, max_size=32),
    st.floats(1.0, 2.0),
    st.floats(1.0, 6.0),
)
def test_no_plan_is_far_behind_one_batch_after_another_on_ranks_of_any_kind(
    sizes, speed, factors, compute_factor, communication_factor
):
    table = speed.table()
    segments = [
        replace(each, duration_ns=round(each.duration_ns * factors[place % len(factors)]))
        for place, each in enumerate(table.segments)
    ]
    beside = [
        replace(
            table.contention[0],
            compute=kind,
            compute_factor=compute_factor,
            communication_factor=communication_factor,
        )
        for kind in (SegmentKind.ATTENTION, SegmentKind.MLP)
    ]
    found = explain(
        [PlannedBatch(kind=BatchKind.PREFILL, num_tokens=size) for size in sizes],
        3,
        forwards=forwards_of(4),
        topology=Topology(tp_size=2),
        costs=CostModel(replace(table, segments=tuple(segments), contention=tuple(beside))),
    )
    assert found.makespan_ns <= 1.02 * found.serial_ns
