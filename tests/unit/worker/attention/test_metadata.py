from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.attention.library.plans import TablePacker, as_tensor, device_layout, host_layout
from worker.attention.metadata import PagedLayout, bucket_of, lay_out_encode, lay_out_paged
from worker.kv_cache import KvCache

NUM_BLOCKS, MAX_LENGTH = 40, 60


def make_cache(block_size: int) -> KvCache:
    return KvCache.allocate(
        layers=range(1), num_blocks=NUM_BLOCKS, block_size=block_size, num_kv_heads=1, head_dim=1, has_scratch=True
    )


@st.composite
def paged(draw: st.DrawFn, *, most_new: int = 20) -> dict:
    """Draw arguments of `lay_out_paged`, padded or not."""
    size = draw(st.sampled_from([1, 4, 16]))
    shapes = draw(st.lists(st.tuples(st.integers(0, 30), st.integers(1, most_new)), min_size=1, max_size=5))
    counts, starts = [count for _, count in shapes], [start for start, _ in shapes]
    block = st.integers(0, NUM_BLOCKS - 1)
    tables = [
        draw(st.lists(block, min_size=-(-(start + count) // size), max_size=-(-(start + count) // size) + 2))
        for start, count in shapes
    ]
    padding = draw(st.none() | st.integers(0, 70))
    return {
        "cache": make_cache(size),
        "num_tokens": counts,
        "starts": starts,
        "block_tables": tables,
        "max_length": MAX_LENGTH,
        "padded_tokens": None if padding is None else sum(counts) + padding,
    }


def counts_of(layout: PagedLayout) -> list[int]:
    return [stop - start for start, stop in pairwise(layout.cu_seqlens_q)]


@pytest.mark.parametrize(("count", "want"), [(1, 16), (16, 16), (17, 32), (33, 60), (60, 60), (61, 61)])
def test_buckets_are_powers_of_two_between_least_and_most(count: int, want: int) -> None:
    assert bucket_of(count, 16, 60) == want


@given(
    lengths=st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=8),
    padding=st.none() | st.integers(0, 200),
    rows=st.none() | st.integers(1, 40),
)
def test_inputs_keep_their_places_and_dummies_fill_what_is_left(
    lengths: list[int], padding: int | None, rows: int | None
) -> None:
    total = sum(lengths)
    layout = lay_out_encode(
        lengths,
        max_length=MAX_LENGTH,
        padded_tokens=None if padding is None else total + padding,
        padded_rows=None if padding is None else rows,
    )
    sizes = [stop - start for start, stop in pairwise(layout.cu_seqlens)]
    assert sizes[: len(lengths)] == lengths
    assert layout.num_tokens == total + (padding or 0)
    assert max(lengths) <= max(sizes) <= layout.max_q <= MAX_LENGTH
    assert layout.num_rows == len(sizes) >= (rows or 0 if padding is not None else 0)
    if padding is None:
        assert sizes == lengths


@given(
    lengths=st.lists(st.integers(1, 16), min_size=1, max_size=4),
    other=st.lists(st.integers(1, 16), min_size=1, max_size=4),
)
def test_batches_of_like_lengths_share_a_bucket(lengths: list[int], other: list[int]) -> None:
    one, two = (
        lay_out_encode(each, max_length=MAX_LENGTH, padded_tokens=64, padded_rows=16) for each in (lengths, other)
    )
    assert (one.num_tokens, one.num_rows, one.max_q) == (two.num_tokens, two.num_rows, two.max_q) == (64, 16, 16)


@settings(max_examples=60, deadline=None)
@given(batch=paged())
def test_sequences_keep_their_slots_and_padding_has_the_scratch_block(batch: dict) -> None:
    layout, size = lay_out_paged(**batch), batch["cache"].block_size
    num_real, want = len(batch["starts"]), sum(batch["num_tokens"])
    slots = [
        table[position // size] * size + position % size
        for table, start, count in zip(batch["block_tables"], batch["starts"], batch["num_tokens"], strict=True)
        for position in range(start, start + count)
    ]
    assert counts_of(layout)[:num_real] == batch["num_tokens"]
    assert list(layout.slot_mapping[:want]) == slots
    assert len(layout.slot_mapping) == layout.num_tokens == (batch["padded_tokens"] or want)
    assert {slot // size for slot in layout.slot_mapping[want:]} <= {NUM_BLOCKS}
    assert {block for table in layout.tables[num_real:] for block in table} <= {NUM_BLOCKS}
    assert not {block for table in layout.tables[:num_real] for block in table} & {NUM_BLOCKS}


@settings(max_examples=60, deadline=None)
@given(batch=paged())
def test_tables_hold_just_what_rows_read(batch: dict) -> None:
    layout, size = lay_out_paged(**batch), batch["cache"].block_size
    lengths = [start + count for start, count in zip(batch["starts"], batch["num_tokens"], strict=True)]
    assert list(layout.kv_lengths[: len(lengths)]) == lengths
    assert max(layout.kv_lengths) <= layout.max_k
    assert max(counts_of(layout)) <= layout.max_q
    for length, count, table in zip(layout.kv_lengths, counts_of(layout), layout.tables, strict=True):
        assert length >= max(1, count)
        assert len(table) == -(-length // size)
    width = -(-layout.max_k // size)
    flat = layout.block_table(width)
    rows = [flat[row * width : (row + 1) * width] for row in range(layout.num_rows)]
    assert [row[: len(table)] for row, table in zip(rows, layout.tables, strict=True)] == list(map(list, layout.tables))


@settings(max_examples=40, deadline=None)
@given(batch=paged())
def test_pages_in_the_words_of_flashinfer_are_the_same_tokens(batch: dict) -> None:
    layout, size = lay_out_paged(**batch), batch["cache"].block_size
    host = host_layout(layout)
    packed = TablePacker().pack(layout.tables)
    device = device_layout(layout, host, packed, lambda _, values, dtype: torch.as_tensor(values, dtype=dtype), size)
    assert host.q_indptr.tolist() == device.q_indptr.tolist() == list(layout.cu_seqlens_q)
    for row, (first, last) in enumerate(pairwise(device.kv_indptr.tolist())):
        assert device.kv_indices[first:last].tolist() == list(layout.tables[row])
        tokens = (last - first - 1) * size + int(device.last_lengths[row])
        assert tokens == layout.kv_lengths[row] == int(host.kv_lengths[row])
        assert 1 <= int(device.last_lengths[row]) <= size


@settings(max_examples=40, deadline=None)
@given(batch=paged(most_new=1), padding=st.integers(0, 9))
def test_rows_of_decode_are_tokens(batch: dict, padding: int) -> None:
    batch["padded_tokens"] = len(batch["starts"]) + padding
    layout = lay_out_paged(**batch)
    assert counts_of(layout) == [1] * batch["padded_tokens"]
    assert layout.max_q == 1


def test_padding_without_a_scratch_block_is_a_bug() -> None:
    cache = KvCache.allocate(layers=range(1), num_blocks=2, block_size=4, num_kv_heads=1, head_dim=1)
    with pytest.raises(AssertionError, match="scratch"):
        lay_out_paged(cache, num_tokens=[1], starts=[2], block_tables=[[0]], max_length=8, padded_tokens=2)


def test_numbers_become_tensors() -> None:
    assert as_tensor([3, 1, 2]).tolist() == [3, 1, 2]
    assert as_tensor(iter(range(4))).dtype is torch.int32


@given(
    batches=st.lists(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4))
)
def test_tables_are_packed_as_they_are_whatever_came_before(batches: list[list[tuple[int, ...]]]) -> None:
    packer = TablePacker()
    for tables in batches:
        assert packer.pack(tables).tolist() == [block for table in tables for block in table]
