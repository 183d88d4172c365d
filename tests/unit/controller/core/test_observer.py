import pytest

from controller.core.cost_model import CostModel
from controller.core.observer import Observer
from controller.core.plan import Strategy, Topology
from controller.core.planner import Planner
from liger.domain import BatchKind, Lane, SegmentKind
from liger.schedule import StepSpan, WindowTimings
from tests.support.driven_plans import batch_of, drive, planner_of
from tests.support.forwards import forwards_of
from tests.support.simulated_ranks import made_profile

MS = 1_000_000


def timings(*spans, lasted_ns=10 * MS, communication_ns=0, exposed_ns=0) -> WindowTimings:
    return WindowTimings(
        started_ns=1000,
        ended_ns=1000 + lasted_ns,
        communication_ns=communication_ns,
        exposed_ns=exposed_ns,
        spans=spans,
    )


@pytest.fixture
def planner():
    return planner_of(made_profile(), 6)


@pytest.fixture
def driven(planner):
    batches = [
        batch_of(1, BatchKind.ENCODE, 512),
        batch_of(2, BatchKind.PREFILL, 512),
        batch_of(3, BatchKind.DECODE, 9),
    ]
    return drive(planner, batches)


@pytest.fixture
def observer(planner, driven):
    observer = Observer(planner.forwards, planner.costs)
    for number, plan in enumerate(driven.plans, 1):
        observer.published(number, plan)
    return observer


def test_every_step_that_ran_is_told_by_its_batch_segment_layer_and_piece(planner, driven, observer):
    is_decomposed = False
    for number, plan in enumerate(driven.plans, 1):
        steps = range(len(plan.pattern.steps))
        ran = observer.acknowledged(number, [timings(*(StepSpan(number, step, step, step + 1) for step in steps))])
        for told, step in zip(ran[0], plan.pattern.steps, strict=True):
            batch = plan.batches[step.operand]
            segment = planner.forwards[batch.kind][plan.bases[step.operand] + step.segment]
            assert (told.batch_id, told.batch, told.num_tokens) == (batch.batch_id, batch.kind, batch.num_tokens)
            assert (told.segment, told.lane, told.layer) == (segment.kind, segment.lane, segment.layer)
            pieces = (step.piece.index, step.piece.count) if step.piece else (0, 1)
            assert (told.piece, told.num_pieces) == pieces
            assert (told.window, told.rank) == (number, 0)
            is_decomposed |= step.piece is not None
    assert len(driven.plans) > 1
    assert is_decomposed


def test_an_exchange_that_ended_in_a_later_window_belongs_to_the_one_it_was_launched_in(driven, observer):
    place = next(place for place, step in enumerate(driven.plans[0].pattern.steps) if step.lane is Lane.COMMUNICATION)
    observer.acknowledged(1, [timings()])
    (told,) = observer.acknowledged(2, [timings(StepSpan(1, place, 50, 90))])[0]
    assert (told.window, told.segment, told.begin_ns, told.end_ns) == (1, SegmentKind.ALL_REDUCE, 50, 90)


def test_each_rank_tells_of_its_own_clock(observer):
    ran = observer.acknowledged(1, [timings(StepSpan(1, 0, 5, 6)), timings(StepSpan(1, 0, 905, 907))])
    assert [(rank, spans[0].rank, spans[0].begin_ns) for rank, spans in ran.items()] == [(0, 0, 5), (1, 1, 905)]


def test_windows_and_steps_that_were_never_published_are_passed_over(driven, observer):
    beyond = len(driven.plans[0].pattern.steps)
    spans = [StepSpan(999, 0, 0, 1), StepSpan(0, 0, 0, 1), StepSpan(1, beyond, 0, 1)]
    for number in (1, 999):
        ran = observer.acknowledged(number, [timings(*spans)])
        assert [list(of_rank) for of_rank in ran.values()] == [[]]


def test_windows_of_long_ago_are_forgotten(driven, observer):
    for number in range(100, 200):
        observer.published(number, driven.plans[0])
    assert observer.acknowledged(199, [timings(StepSpan(1, 0, 0, 1), StepSpan(199, 0, 0, 1))])[0][0].window == 199


def test_the_hidden_share_is_what_no_lane_waited_for_on_the_slowest_rank(observer):
    assert observer.hidden_share is None
    slow = timings(communication_ns=8 * MS, exposed_ns=2 * MS, lasted_ns=20 * MS)
    observer.acknowledged(1, [timings(communication_ns=8 * MS, exposed_ns=8 * MS), slow])
    assert observer.hidden_share == pytest.approx(0.75)
    observer.acknowledged(2, [timings(communication_ns=8 * MS, exposed_ns=6 * MS)])
    assert observer.hidden_share == pytest.approx(0.5)
    observer.acknowledged(3, [timings(communication_ns=1, exposed_ns=100 * MS)])
    assert observer.hidden_share == 0.0, "never below nothing"


def test_predictions_are_compared_with_what_windows_took(driven, observer):
    assert observer.prediction_error is None
    predicted_ns = round(driven.plans[0].cut.predicted_ns)
    observer.acknowledged(1, [timings(lasted_ns=predicted_ns * 2)])
    assert observer.prediction_error == pytest.approx(0.5, rel=1e-3)


def slower(observer, plan, factor, times):
    """Let the compute steps of windows take so many times longer than expected."""
    for number in range(10, 10 + times):
        observer.published(number, plan)
        spans = [
            StepSpan(number, place, 0, round(factor * (expected.end_ns - expected.begin_ns)))
            for place, (step, expected) in enumerate(zip(plan.pattern.steps, plan.cut.expected, strict=True))
            if step.lane is Lane.COMPUTE
        ]
        observer.acknowledged(number, [timings(*spans)])


def test_segments_that_take_longer_than_expected_are_learnt(planner, driven, observer):
    before = planner.costs.version
    slower(observer, driven.plans[0], 1.6, 60)
    assert planner.costs.version > before
    factors = {one.segment: one.factor for one in planner.costs.corrections()}
    assert factors[SegmentKind.MLP] > 1.1
    assert SegmentKind.ALL_REDUCE not in factors


def test_windows_planned_with_older_costs_teach_nothing(planner, driven, observer):
    planner.costs.version += 1
    spans = [StepSpan(1, place, 0, 100 * MS) for place in range(len(driven.plans[0].pattern.steps))]
    observer.acknowledged(1, [timings(*spans)])
    assert planner.costs.corrections() == ()


def test_without_costs_what_ran_is_told_all_the_same():
    forwards = forwards_of(2)
    plan = Planner(forwards, strategy=Strategy.TENSOR, topology=Topology()).plan([batch_of(1, BatchKind.ENCODE, 4)])
    observer = Observer(forwards, None)
    observer.published(1, plan)
    (told,) = observer.acknowledged(1, [timings(StepSpan(1, 1, 3, 4))])[0]
    assert (told.segment, told.layer, observer.prediction_error) == (SegmentKind.ATTENTION, 0, None)


def test_costs_are_those_of_the_planner(planner):
    assert isinstance(planner.costs, CostModel)
