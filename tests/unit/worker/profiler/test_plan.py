from dataclasses import replace

import pytest

from liger.domain import BatchKind, SegmentKind
from worker.profiler.plan import CUDA_BUCKETS, Bounds, Shape, block_tables, make_plan

BOUNDS = Bounds(
    kinds=frozenset(BatchKind),
    max_length=2048,
    max_batch_tokens=2048,
    num_rows=128,
    num_blocks=10_000,
    block_size=16,
    num_ranks=2,
    draws=True,
)


def shapes(bounds, batch):
    return [shape for shape in make_plan(bounds).shapes if shape.batch is batch]


def test_encode_batches_hold_inputs_of_at_most_128_tokens_the_last_one_shorter():
    found = {shape.size: shape.lengths for shape in shapes(replace(BOUNDS, max_batch_tokens=300), BatchKind.ENCODE)}
    assert found[64] == (64,)
    assert found[300] == (128, 128, 44)


def test_prefill_is_measured_with_and_without_context():
    assert {shape.context for shape in shapes(BOUNDS, BatchKind.PREFILL)} == {0, 512}


def test_a_short_model_is_measured_with_contexts_that_it_can_hold():
    short = replace(BOUNDS, max_length=64)
    assert {shape.context for shape in make_plan(short).shapes} == {0, 32}
    assert all(shape.context + max(shape.lengths) <= 64 for shape in make_plan(short).shapes)


def test_decode_is_measured_up_to_the_rows_of_the_sequence_table():
    assert max(shape.size for shape in shapes(replace(BOUNDS, num_rows=100), BatchKind.DECODE)) == 100


def test_what_the_cache_cannot_hold_is_left_out():
    assert shapes(replace(BOUNDS, num_blocks=0), BatchKind.DECODE) == []
    few = replace(BOUNDS, num_blocks=12)
    assert {(shape.size, shape.context) for shape in shapes(few, BatchKind.DECODE)} == {(1, 32), (4, 32)}


@pytest.mark.parametrize("most", [1, 5, 64, 100, 2048, 9000])
def test_no_batch_and_no_exchange_is_larger_than_what_may_come(most):
    plan = make_plan(replace(BOUNDS, max_batch_tokens=most))
    assert max(shape.size for shape in plan.shapes) == min(most, 2048)
    assert max(exchange.size for exchange in plan.exchanges) == min(most, 2048)
    assert max(co_run.exchange_tokens for co_run in plan.co_runs) == min(most, 2048)


def test_an_encoder_has_encode_batches_alone_and_gathers_nothing():
    plan = make_plan(replace(BOUNDS, kinds=frozenset({BatchKind.ENCODE}), num_blocks=0, draws=False))
    assert {shape.batch for shape in plan.shapes} == {BatchKind.ENCODE}
    assert {exchange.segment for exchange in plan.exchanges} == {SegmentKind.ALL_REDUCE}


def test_a_rank_alone_measures_compute_alone():
    plan = make_plan(replace(BOUNDS, num_ranks=1))
    assert plan.shapes
    assert not plan.exchanges
    assert not plan.co_runs


def test_cells_are_all_different_and_grow_within_their_family():
    plan = make_plan(BOUNDS)
    for cells in (plan.shapes, plan.exchanges, plan.co_runs):
        assert len(set(cells)) == len(cells)
        assert [cell.size for cell in cells] == sorted(cell.size for cell in cells)


def test_rows_never_share_a_block():
    tables = block_tables(Shape(batch=BatchKind.PREFILL, lengths=(5, 1), context=12), 4)
    assert tables == [range(5), range(5, 9)]


def test_a_gpu_is_measured_at_larger_sizes_and_longer_contexts():
    large = replace(BOUNDS, max_length=8192, max_batch_tokens=8192, num_blocks=100_000, buckets=CUDA_BUCKETS)
    assert max(shape.size for shape in make_plan(large).shapes) == 8192
    assert {shape.context for shape in shapes(large, BatchKind.DECODE)} == {32, 512, 2048}
    assert {shape.context for shape in shapes(large, BatchKind.PREFILL)} == {0, 2048}


def test_every_way_to_exchange_is_tried_at_the_same_sizes():
    plan = make_plan(replace(BOUNDS, max_batch_tokens=300), ("nccl", "copy-engine"))
    tried = {name: [way.size for way in plan.ways if way.communicator == name] for name in ("nccl", "copy-engine")}
    assert tried["nccl"] == tried["copy-engine"] == [1, 64, 300]


def test_one_way_to_exchange_and_ranks_alone_have_nothing_to_compare():
    assert make_plan(BOUNDS).ways == ()
    assert make_plan(replace(BOUNDS, num_ranks=1), ("nccl", "copy-engine")).ways == ()
