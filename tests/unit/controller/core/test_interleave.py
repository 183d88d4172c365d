from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.layout import Job, Task, chain
from controller.core.planner import Planner
from controller.core.situation import InterleaveOptions, Situation, bucketed
from liger.domain import BatchKind, Lane
from tests.support.driven_plans import (
    alone_ns,
    batch_of,
    collectives_of,
    drive,
    execute,
    lane_ns,
    planner_of,
)
from tests.support.made_loads import batch_sets, speeds
from tests.support.simulated_ranks import made_profile

SLACK, MIXED_SLACK, PRESSED_SLACK = 0.05, 0.25, 0.5
BUCKETED = 1.02  # windows are planned for sizes rounded up, so order may be a little worse for the true ones

layers = st.sampled_from([(1,), (2,), (5,), (12,), (1, 1), (2, 3)])


@settings(max_examples=120, deadline=None, derandomize=True)
@given(batch_sets(), speeds(), layers, st.integers(1, 4))
def test_every_segment_runs_once_and_in_order_and_a_rank_takes_every_window(batches, speed, stage_layers, depth):
    driven = drive(
        planner_of(speed.table(), *stage_layers), batches, depth=depth
    )  # the guard refuses what is out of order
    seen = defaultdict(list)
    for plan, step, batch, segment, place in driven.steps():
        assert step.lane is segment.lane
        seen[batch.batch_id, place].append((plan, step.piece))
    assert set(seen) == {(one.batch_id, place) for one in batches for place in range(len(driven.forwards[one.kind]))}
    for launches in seen.values():
        assert all(plan is launches[0][0] for plan, _ in launches), "a decomposed segment lies in one window"
        pieces = [piece for _, piece in launches]
        if pieces != [None]:
            assert [(piece.index, piece.count) for piece in pieces] == [(i, len(pieces)) for i in range(len(pieces))]
    for plan in driven.plans:
        slots = [batch.start.slot for batch in plan.batches]
        assert len(set(slots)) == len(slots)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(batch_sets(), speeds(), layers)
def test_all_ranks_of_a_stage_run_the_same_exchanges_in_the_same_order(batches, speed, stage_layers):
    driven = drive(planner_of(speed.table(), *stage_layers, tp_size=2), batches)
    orders = [collectives_of(driven, rank) for rank in range(2 * len(stage_layers))]
    for stage in range(len(stage_layers)):
        assert orders[2 * stage] == orders[2 * stage + 1] != []
    per_batch = defaultdict(list)
    for batch_id, place, index, _ in (each for order in orders[::2] for each in order):
        per_batch[batch_id].append((place, index))
    assert all(len(set(launches)) == len(launches) for launches in per_batch.values())


@settings(max_examples=120, deadline=None, derandomize=True)
@given(batch_sets(), speeds(), layers, st.integers(1, 4))
def test_no_lane_is_planned_to_do_two_things_at_once(batches, speed, stage_layers, depth):
    driven = drive(planner_of(speed.table(), *stage_layers), batches, depth=depth)
    for plan in driven.plans:
        lanes = defaultdict(list)
        for step, expected in zip(plan.pattern.steps, plan.cut.expected, strict=True):
            stage = driven.forwards[plan.batches[step.operand].kind][plan.bases[step.operand] + step.segment].stage
            lanes[stage, step.lane].append(expected)
        for spans in lanes.values():
            assert all(before.end_ns <= after.begin_ns + 1e-3 for before, after in pairwise(spans))


class Noting(Planner):
    """Notes the keys that it plans for."""

    def _key(self, in_flight, **more):
        self.noted = super()._key(in_flight, **more)
        return self.noted


@settings(max_examples=120, deadline=None, derandomize=True)
@given(batch_sets(), speeds(contentions=(1.0,)), layers, st.integers(2, 4), st.booleans())
def test_in_every_window_the_oldest_batch_is_delayed_by_no_more_than_its_slack(
    batches, speed, stage_layers, depth, is_pressed
):
    usual = PRESSED_SLACK if is_pressed else SLACK
    planner = planner_of(speed.table(), *stage_layers)
    planner.__class__ = Noting
    checked = []
    original = planner.plan

    def plan(in_flight, **more):
        planned = original(in_flight, **more)
        views, free, situation = planner.noted
        primary = in_flight[0]
        is_mixed = situation is Situation.MIXED and primary.kind is BatchKind.DECODE
        slack = MIXED_SLACK if is_mixed else usual
        assert planned.batches[0] is primary
        advance = planned.cut.advances[0]
        segments = planner.forwards[primary.kind][primary.position : primary.position + advance]
        tasks = [
            Task(
                2 * segment.stage + (segment.lane is Lane.COMMUNICATION),
                planner.costs.duration_ns(bucketed(primary.shape), segment.kind),
                number - 1,
            )
            for number, segment in enumerate(segments)
        ]
        alone = chain(Job(tuple(tasks), views[0].ready), free)
        end = planned.cut.predicted_ns + planned.cut.ready[0]
        last = max(
            expected.end_ns
            for step, expected in zip(planned.pattern.steps, planned.cut.expected, strict=True)
            if step.operand == 0
        )
        assert last <= end + 1e-3
        assert last <= alone + slack * (alone - views[0].ready) + 1e-3
        checked.append(last)
        return planned

    planner.plan = plan
    drive(planner, batches, depth=depth, is_pressed=is_pressed)
    assert checked


@settings(max_examples=120, deadline=None, derandomize=True)
@given(batch_sets(), speeds(contentions=(1.0,)), layers, st.integers(1, 4), st.booleans())
def test_running_the_windows_never_takes_longer_than_one_batch_after_another(
    batches, speed, stage_layers, depth, is_pressed
):
    planner = planner_of(speed.table(), *stage_layers)
    driven = drive(planner, batches, depth=depth, is_pressed=is_pressed)
    serial_ns = sum(alone_ns(batch, driven.forwards, planner.costs) for batch in batches)
    assert execute(driven, planner.costs).makespan <= serial_ns * BUCKETED


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.sampled_from([1, 64, 128, 512, 2048]), speeds(contentions=(1.0,)), layers)
def test_a_lone_batch_never_takes_longer_than_whole(num_tokens, speed, stage_layers):
    planner = planner_of(speed.table(), *stage_layers)
    batch = batch_of(1, BatchKind.ENCODE, num_tokens)
    driven = drive(planner, [batch])
    assert execute(driven, planner.costs).makespan <= alone_ns(batch, driven.forwards, planner.costs) * 1.0001


def test_a_large_lone_batch_overlaps_its_own_pieces():
    planner = planner_of(made_profile(floor_ns=10_000), 4)
    batch = batch_of(1, BatchKind.ENCODE, 2048)
    driven = drive(planner, [batch])
    assert any(step.piece for plan in driven.plans for step in plan.pattern.steps)
    assert execute(driven, planner.costs).makespan < 0.9 * alone_ns(batch, driven.forwards, planner.costs)


@pytest.mark.parametrize("is_pressed", [False, True])
@pytest.mark.parametrize("contention", [1.0, 1.3])
@pytest.mark.parametrize(
    ("exchange_ns", "ratio"), [(10_000, 2.8), (20_000, 1.4), (30_000, 1.0), (45_000, 0.65), (90_000, 0.33)]
)
def test_equal_large_batches_at_depth_3_hide_most_of_what_can_be_hidden(exchange_ns, ratio, contention, is_pressed):
    planner = planner_of(made_profile(exchange_ns=exchange_ns, floor_ns=100_000, contention=contention), 12)
    batches = [batch_of(number, BatchKind.ENCODE, 512) for number in range(1, 7)]
    driven = drive(planner, batches, is_pressed=is_pressed)
    compute_ns, exchange_ns = (
        sum(lane_ns(batch, driven.forwards, planner.costs, lane) for batch in batches) for lane in Lane
    )
    assert compute_ns / exchange_ns == pytest.approx(ratio, rel=0.1)
    makespan_ns = execute(driven, planner.costs).makespan
    assert compute_ns + exchange_ns - makespan_ns >= 0.7 * min(compute_ns, exchange_ns)
    last = driven.plans[-1].cut
    predicted_ns = sum(plan.cut.predicted_ns for plan in driven.plans) + max(last.ready)
    assert makespan_ns <= 1.03 * predicted_ns, "ranks keep what was planned"


def test_a_younger_batch_goes_as_far_as_the_gaps_of_the_oldest_let_it():
    planner = planner_of(made_profile(), 12)
    driven = drive(planner, [batch_of(1, BatchKind.PREFILL, 512), batch_of(2, BatchKind.DECODE, 16, context=300)])
    assert len(driven.plans[0].batches) == 2
    assert driven.plans[0].positions[1] > driven.plans[0].positions[0]


def test_work_beside_a_decode_step_takes_the_time_that_its_weight_gives_it():
    decode, encode = batch_of(1, BatchKind.DECODE, 4), batch_of(2, BatchKind.ENCODE, 128)
    done = []
    for slack in (0.05, 0.5):
        planner = planner_of(made_profile(floor_ns=300_000), 12, options=InterleaveOptions(mixed_slack=slack))
        plan = planner.plan([decode, encode], backlog_ns=1e12)
        step_ns = alone_ns(decode, planner.forwards, planner.costs)
        assert plan.cut.advances[0] == len(planner.forwards[BatchKind.DECODE])
        assert plan.cut.predicted_ns <= (1 + slack) * step_ns * BUCKETED
        done.append(plan.cut.advances[1] if len(plan.cut.advances) > 1 else 0)
    assert done[1] > done[0]
