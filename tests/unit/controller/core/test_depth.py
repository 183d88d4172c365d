import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.cost_model import CostModel
from controller.core.depth import DepthControl
from controller.core.plan import Strategy
from liger.domain import BatchKind
from tests.support.driven_plans import batch_of
from tests.support.forwards import forwards_of
from tests.support.made_loads import batch_sets, speeds
from tests.support.simulated_ranks import made_profile

FORWARDS = forwards_of(8)


def control(strategy=Strategy.INTERLEAVED, *, max_depth=4, num_stages=1, **profile) -> DepthControl:
    costs = CostModel(made_profile(**profile)) if strategy is Strategy.INTERLEAVED else None
    return DepthControl(strategy=strategy, num_stages=num_stages, max_depth=max_depth, forwards=FORWARDS, costs=costs)


def encodes(count: int, num_tokens: int = 256):
    return [batch_of(number, BatchKind.ENCODE, num_tokens) for number in range(1, count + 1)]


@pytest.mark.parametrize("num_tokens", [1, 64, 2000])
def test_where_exchanges_cost_nothing_one_batch_at_a_time_is_as_good(num_tokens):
    free = control(exchange_ns=0, floor_ns=1, compute_ns=20_000)
    assert free.depth(encodes(1, num_tokens)) == 1


@pytest.mark.parametrize("exchange_ns", [20_000, 30_000, 45_000])
def test_where_compute_and_exchange_balance_several_batches_are_in_flight(exchange_ns):
    assert control(exchange_ns=exchange_ns, floor_ns=1_000).depth(encodes(1)) >= 2


def test_contention_that_eats_the_gain_keeps_one_batch_in_flight():
    assert control(exchange_ns=30_000, floor_ns=1_000).depth(encodes(1)) > 1
    assert control(exchange_ns=30_000, floor_ns=1_000, contention=2.1).depth(encodes(1)) == 1


@settings(max_examples=150, deadline=None, derandomize=True)
@given(batch_sets(), speeds(), st.integers(1, 6), st.sampled_from(Strategy), st.none() | st.floats(-1e9, 1e9))
def test_never_more_batches_than_slots(batches, speed, max_depth, strategy, time_left_ns):
    costs = CostModel(speed.table()) if strategy is Strategy.INTERLEAVED else None
    depths = DepthControl(strategy=strategy, num_stages=max_depth, max_depth=max_depth, forwards=FORWARDS, costs=costs)
    in_flight = batches[:max_depth]
    for count in range(len(in_flight) + 1):
        assert 1 <= depths.depth(in_flight[:count], time_left_ns=time_left_ns) <= max_depth


def test_tensor_runs_one_batch_at_a_time_and_never_two_for_one():
    tensor = control(Strategy.TENSOR, max_depth=1)
    assert tensor.depth([]) == tensor.depth(encodes(1)) == 1
    assert tensor.num_groups(64, 500) == tensor.num_parts(BatchKind.ENCODE, 4096) == 1


def test_pipeline_runs_as_many_batches_as_stages():
    pipeline = control(Strategy.PIPELINE, max_depth=3, num_stages=3)
    assert pipeline.depth([]) == pipeline.depth(encodes(3)) == 3
    assert pipeline.num_groups(64, 500) == 3
    assert pipeline.num_groups(2, 500) == 2, "no batch is empty"
    assert pipeline.num_parts(BatchKind.ENCODE, 4096) == 1


def test_without_costs_interleaving_is_one_batch_at_a_time():
    unknown = DepthControl(strategy=Strategy.INTERLEAVED, num_stages=1, max_depth=4, forwards=FORWARDS, costs=None)
    assert unknown.depth(encodes(2)) == 1
    assert unknown.num_groups(64, 500) == unknown.num_parts(BatchKind.ENCODE, 4096) == 1


def test_small_decode_batches_are_merged_and_large_ones_halved_where_it_pays():
    weights_bound = control(compute_ns=1_000, exchange_ns=30_000, floor_ns=2_000_000)
    assert weights_bound.num_groups(8, 100) == 1, "two halves would read the weights twice"
    balanced = control(compute_ns=20_000, exchange_ns=30_000, floor_ns=20_000)
    assert balanced.num_groups(64, 100) == 2
    assert balanced.num_groups(1, 100) == 1


def test_waiting_tokens_are_halved_where_two_batches_hide_more_than_they_cost():
    balanced = control(exchange_ns=30_000, floor_ns=20_000)
    assert balanced.num_parts(BatchKind.ENCODE, 1024) == 2
    assert balanced.num_parts(BatchKind.ENCODE, 1) == 1
    assert control(exchange_ns=30_000, floor_ns=50_000_000).num_parts(BatchKind.ENCODE, 64) == 1
    assert control(exchange_ns=0, floor_ns=1).num_parts(BatchKind.ENCODE, 1024) == 1


def test_a_batch_that_barely_meets_its_deadline_runs_alone():
    depths = control(exchange_ns=30_000, floor_ns=1_000)
    (batch,) = encodes(1)
    alone_ns = 8 * 3 * 256 * 20_000 + 8 * 2 * 256 * 30_000
    assert depths.depth([batch], time_left_ns=1.2 * alone_ns) == 1
    assert depths.depth([batch], time_left_ns=4 * alone_ns) > 1
    assert depths.depth([batch], time_left_ns=0.5 * alone_ns) > 1, "it is too late for it anyway"


def test_depth_follows_what_is_learnt():
    costs = CostModel(made_profile(exchange_ns=400, floor_ns=1_000))  # hides hardly anything, until it is learnt
    depths = DepthControl(strategy=Strategy.INTERLEAVED, num_stages=1, max_depth=4, forwards=FORWARDS, costs=costs)
    before = depths.depth(encodes(1, 16))
    for _ in range(300):
        for segment in costs.table.segments:
            if segment.batch is None:
                costs.observe(BatchKind.ENCODE, segment.segment, 1e6, 4e6)
    costs.renew()
    assert before == 1
    assert depths.depth(encodes(1, 16)) > 1
    assert costs.version == 2
