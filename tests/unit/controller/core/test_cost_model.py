import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.cost_model import CostModel, Shape
from liger.domain import BatchKind, SegmentKind
from liger.profile import ContentionSample, ProfileTable, SegmentSample
from tests.support.simulated_ranks import made_profile

ENCODE, DECODE, PREFILL = BatchKind.ENCODE, BatchKind.DECODE, BatchKind.PREFILL
ATTENTION, MLP, ALL_REDUCE = SegmentKind.ATTENTION, SegmentKind.MLP, SegmentKind.ALL_REDUCE


def sample(batch, segment, num_tokens, duration_ns, context=0) -> SegmentSample:
    return SegmentSample(batch=batch, segment=segment, num_tokens=num_tokens, context=context, duration_ns=duration_ns)


def costs_of(*samples, contention=()) -> CostModel:
    return CostModel(ProfileTable(key="k", activation_bytes=4, segments=samples, contention=contention))


@pytest.mark.parametrize(
    ("num_tokens", "duration_ns"), [(1, 100), (10, 100), (15, 150), (20, 200), (30, 600), (40, 1000), (80, 2600)]
)
def test_durations_are_linear_between_samples_and_beyond_the_last_and_the_first_below_it(num_tokens, duration_ns):
    costs = costs_of(sample(ENCODE, MLP, 40, 1000), sample(ENCODE, MLP, 10, 100), sample(ENCODE, MLP, 20, 200))
    assert costs.duration_ns(Shape(ENCODE, num_tokens), MLP) == pytest.approx(duration_ns)


def test_beyond_the_last_of_falling_samples_no_duration_is_negative():
    costs = costs_of(sample(ENCODE, MLP, 10, 1000), sample(ENCODE, MLP, 20, 100))
    assert costs.duration_ns(Shape(ENCODE, 4000), MLP) > 0


def test_durations_are_interpolated_over_context_too():
    costs = costs_of(
        sample(DECODE, ATTENTION, 1, 100, context=0),
        sample(DECODE, ATTENTION, 3, 300, context=0),
        sample(DECODE, ATTENTION, 1, 200, context=100),
        sample(DECODE, ATTENTION, 3, 400, context=100),
    )
    assert costs.duration_ns(Shape(DECODE, 2, 50), ATTENTION) == pytest.approx(250)
    assert costs.duration_ns(Shape(DECODE, 2, 200), ATTENTION) == pytest.approx(400)


def test_exchanges_cost_the_same_for_all_kinds_and_contexts():
    costs = costs_of(sample(None, ALL_REDUCE, 1, 70), sample(ENCODE, MLP, 1, 9))
    shapes = [Shape(ENCODE, 5), Shape(PREFILL, 5, 900), Shape(DECODE, 5, 3)]
    assert {costs.duration_ns(shape, ALL_REDUCE) for shape in shapes} == {70.0}


def test_a_kind_that_was_not_measured_costs_what_another_kind_does():
    costs = costs_of(sample(ENCODE, MLP, 1, 90))
    assert costs.duration_ns(Shape(DECODE, 1), MLP) == pytest.approx(90)


def test_a_segment_that_was_not_measured_costs_next_to_nothing_but_something():
    assert 0 < costs_of().duration_ns(Shape(ENCODE, 100), SegmentKind.GATHER) <= 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 20_000), st.integers(0, 20_000))
def test_more_tokens_never_cost_less_where_samples_grow(num_tokens, context):
    costs = CostModel(made_profile())
    shape, larger = Shape(PREFILL, num_tokens, context), Shape(PREFILL, num_tokens + 1, context)
    assert all(costs.duration_ns(shape, kind) <= costs.duration_ns(larger, kind) for kind in SegmentKind)


def test_contention_is_that_of_the_nearest_co_run_of_that_compute_and_never_a_gain():
    def beside(compute, tokens, num_bytes, factor):
        return ContentionSample(
            compute=compute,
            compute_tokens=tokens,
            communication_bytes=num_bytes,
            compute_factor=factor,
            communication_factor=factor + 1,
        )

    small, large = beside(MLP, 64, 256, 1.5), beside(MLP, 1024, 4096, 2.5)
    costs = costs_of(contention=(small, large, beside(ATTENTION, 100, 400, 0.7)))
    assert costs.contention(MLP, 100, 100) == (1.5, 2.5)
    assert costs.contention(MLP, 5000, 5000) == (2.5, 3.5)
    assert costs.contention(ATTENTION, 5000, 5000) == (1.0, 1.7)
    assert costs.contention(SegmentKind.HEAD, 100, 100) == (1.0, 1.0)


def observe(costs, ratio, times=1):
    """Let segments take so many times longer than predicted, as an observer would tell."""
    for _ in range(times):
        predicted_ns = costs.duration_ns(Shape(ENCODE, 100), MLP)
        costs.observe(ENCODE, MLP, predicted_ns, 1e6 * ratio)
        costs.renew()


def level() -> CostModel:
    return costs_of(sample(ENCODE, MLP, 1, 1_000_000), sample(DECODE, MLP, 1, 1_000_000))


def factor(costs: CostModel) -> float:
    (correction,) = costs.corrections()
    return correction.factor


@pytest.mark.parametrize("outlier", [1000.0, 0.001])
def test_one_outlier_among_many_observations_hardly_moves_a_correction(outlier):
    costs = level()
    observe(costs, 1.0, 1000)
    before, version = factor(costs), costs.version
    observe(costs, outlier)
    assert factor(costs) == pytest.approx(before, rel=0.05)
    assert costs.version == version


@pytest.mark.parametrize("ratio", [1.5, 0.7, 3.0])
def test_a_lasting_deviation_is_learnt(ratio):
    costs = level()
    observe(costs, ratio, 300)
    assert costs.duration_ns(Shape(ENCODE, 100), MLP) == pytest.approx(1e6 * ratio, rel=0.1)
    assert costs.duration_ns(Shape(DECODE, 100), MLP) == 1e6, "each kind of batch has a correction of its own"


@pytest.mark.parametrize("ratio", [1000.0, 0.001])
def test_corrections_have_bounds(ratio):
    costs = level()
    observe(costs, ratio, 3000)
    assert 1 / 4 <= factor(costs) <= 4
    assert costs.duration_ns(Shape(ENCODE, 100), MLP) == pytest.approx(1e6 * factor(costs), rel=0.11)


def test_corrections_enter_predictions_only_when_renewed_and_far_enough():
    costs = level()
    costs.observe(ENCODE, MLP, 1e6, 1.05e6)
    assert not costs.renew()
    assert (costs.version, costs.duration_ns(Shape(ENCODE, 100), MLP)) == (1, 1e6)
    for _ in range(200):
        costs.observe(ENCODE, MLP, 1e6, 2e6)
    assert (costs.version, costs.duration_ns(Shape(ENCODE, 100), MLP)) == (1, 1e6), "a frozen version enters plans"
    assert costs.renew()
    assert costs.version == 2
    assert costs.duration_ns(Shape(ENCODE, 100), MLP) > 1.5e6
    assert not costs.renew()


def test_small_deviations_change_nothing_however_long_they_last():
    costs = level()
    observe(costs, 1.08, 500)
    assert costs.version == 1


def test_what_cannot_be_a_duration_is_not_learnt():
    costs = level()
    for predicted_ns, measured_ns in [(0.0, 5.0), (5.0, 0.0), (-1.0, 5.0), (5.0, -5.0)]:
        costs.observe(ENCODE, MLP, predicted_ns, measured_ns)
        costs.observe_window(predicted_ns, measured_ns)
    assert costs.corrections() == ()
    assert costs.error is None


def test_the_error_is_the_median_of_recent_windows():
    costs = level()
    assert costs.error is None
    for measured_ns in (100.0, 100.0, 100.0, 1e9):
        costs.observe_window(110.0, measured_ns)
    assert costs.error == pytest.approx(0.1)
    for _ in range(1000):
        costs.observe_window(100.0, 100.0)
    assert costs.error == 0.0


def test_all_reduces_keep_their_lane_for_a_measured_share_of_their_time_and_all_else_for_all_of_it():
    reduces = [
        SegmentSample(batch=None, segment=ALL_REDUCE, num_tokens=10, context=0, duration_ns=100, held_ns=50),
        SegmentSample(batch=None, segment=ALL_REDUCE, num_tokens=30, context=0, duration_ns=100, held_ns=90),
        SegmentSample(batch=None, segment=ALL_REDUCE, num_tokens=50, context=0, duration_ns=100),
    ]
    costs = costs_of(sample(ENCODE, MLP, 10, 100), *reduces)
    shares = [costs.held_share(Shape(ENCODE, size), ALL_REDUCE) for size in (1, 10, 20, 30, 50, 400)]
    assert shares[:5] == pytest.approx([0.5, 0.5, 0.7, 0.9, 1.0])
    assert shares[5] == 1.0
    assert costs.held_share(Shape(ENCODE, 10), MLP) == 1.0
    assert costs_of(sample(ENCODE, MLP, 10, 100)).held_share(Shape(ENCODE, 10), ALL_REDUCE) == 1.0
