from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.plain_attention import attend_plainly
from worker.attention.paged import build_paged_attention
from worker.kv_cache import KvCache

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 8
NUM_BLOCKS = 64


@dataclass
class Sequence:
    """A sequence with its keys and values, of which the first `start` tokens are cached."""

    start: int
    count: int
    table: list[int]
    query: Tensor
    key: Tensor
    value: Tensor


@dataclass
class Batch:
    sequences: list[Sequence]
    block_size: int

    def cache(self, filler: float = 0.0) -> KvCache:
        """Return a cache that holds what was computed before, and `filler` elsewhere."""
        shape = {"num_blocks": NUM_BLOCKS, "block_size": self.block_size}
        cache = KvCache.allocate(layers=range(1), num_kv_heads=KV_HEADS, head_dim=HEAD_DIM, **shape)
        keys, values = cache.slots(0)
        keys.fill_(filler)
        values.fill_(filler)
        for sequence in self.sequences:
            for position in range(sequence.start):
                slot = sequence.table[position // self.block_size] * self.block_size + position % self.block_size
                keys[slot], values[slot] = sequence.key[position], sequence.value[position]
        return cache

    def attend(self, cache: KvCache, window: int | None = None) -> list[Tensor]:
        attend = build_paged_attention(
            cache,
            num_tokens=[sequence.count for sequence in self.sequences],
            starts=[sequence.start for sequence in self.sequences],
            block_tables=[sequence.table for sequence in self.sequences],
            windows=[window],
        )
        query = torch.cat([sequence.query for sequence in self.sequences])
        key = torch.cat([sequence.key[sequence.start :] for sequence in self.sequences])
        value = torch.cat([sequence.value[sequence.start :] for sequence in self.sequences])
        return list(attend(0, query, key, value).split([sequence.count for sequence in self.sequences]))


def make_batch(shapes: list[tuple[int, int]], block_size: int, order: list[int] | None = None) -> Batch:
    """Make sequences of (cached, new) tokens; blocks are dealt in `order`, neighbours by default."""
    generator = torch.Generator().manual_seed(len(shapes))
    free = list(order if order is not None else range(NUM_BLOCKS))
    sequences = []
    for start, count in shapes:
        length = start + count
        query = torch.randn(count, HEADS, HEAD_DIM, generator=generator)
        key, value = torch.randn(2, length, KV_HEADS, HEAD_DIM, generator=generator)
        table = [free.pop(0) for _ in range(-(-length // block_size))]
        sequences.append(Sequence(start, count, table, query, key, value))
    return Batch(sequences, block_size)


@st.composite
def batches(draw: st.DrawFn, *, most_new_tokens: int = 9) -> Batch:
    shape = st.tuples(st.integers(0, 30), st.integers(1, most_new_tokens))
    shapes = draw(st.lists(shape, min_size=1, max_size=6))
    seed = draw(st.integers(0, 100))
    order = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(seed)).tolist()
    return make_batch(shapes, draw(st.sampled_from([4, 5, 16])), draw(st.sampled_from([order, None])))


def assert_plain(batch: Batch, results: list[Tensor], window: int | None) -> None:
    for sequence, got in zip(batch.sequences, results, strict=True):
        want = attend_plainly(sequence.query, sequence.key, sequence.value, first=sequence.start, window=window)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(batch=batches(), window=st.none() | st.integers(1, 40))
def test_chunks_and_decode_of_any_lengths_see_what_they_may(batch: Batch, window: int | None) -> None:
    assert_plain(batch, batch.attend(batch.cache(), window), window)


@settings(max_examples=30, deadline=None)
@given(batch=batches(most_new_tokens=1), window=st.none() | st.integers(1, 40))
def test_decode_of_any_lengths_sees_what_it_may(batch: Batch, window: int | None) -> None:
    assert_plain(batch, batch.attend(batch.cache(), window), window)


@settings(max_examples=20, deadline=None)
@given(batch=batches())
def test_what_others_left_in_the_cache_is_never_read(batch: Batch) -> None:
    clean, dirty = batch.attend(batch.cache()), batch.attend(batch.cache(torch.nan))
    assert all(torch.equal(one, other) for one, other in zip(clean, dirty, strict=True))


@settings(max_examples=20, deadline=None)
@given(batch=batches())
def test_new_keys_and_values_are_in_the_cache_afterwards_and_nothing_else_changed(batch: Batch) -> None:
    cache = batch.cache(filler=7.0)
    batch.attend(cache)
    finished = [
        Sequence(sequence.start + sequence.count, 0, sequence.table, sequence.query, sequence.key, sequence.value)
        for sequence in batch.sequences
    ]
    want = Batch(finished, batch.block_size).cache(filler=7.0)
    assert all(torch.equal(one, other) for one, other in zip(cache.slots(0), want.slots(0), strict=True))


@pytest.mark.parametrize("lengths", [[5, 5, 5], [1, 64, 3, 200], [100, 110, 300, 90]])
def test_decode_does_not_depend_on_company(lengths: list[int]) -> None:
    together = make_batch([(length, 1) for length in lengths], 16)
    rows = together.attend(together.cache())
    for sequence, row in zip(together.sequences, rows, strict=True):
        alone = Batch([sequence], 16)
        torch.testing.assert_close(alone.attend(alone.cache())[0], row, rtol=0, atol=1e-6)


def test_windows_are_those_of_the_layer() -> None:
    batch = make_batch([(20, 1), (20, 4)], 4)
    cache = KvCache.allocate(
        layers=range(2, 4), num_blocks=NUM_BLOCKS, block_size=4, num_kv_heads=KV_HEADS, head_dim=HEAD_DIM
    )
    filled = batch.cache()
    for layer in (2, 3):
        for mine, theirs in zip(cache.slots(layer), filled.slots(0), strict=True):
            mine.copy_(theirs)
    attend = build_paged_attention(
        cache,
        num_tokens=[1, 4],
        starts=[20, 20],
        block_tables=[sequence.table for sequence in batch.sequences],
        windows=[None, None, None, 6],
    )
    query, key, value = (
        torch.cat([getattr(sequence, name)[-sequence.count :] for sequence in batch.sequences])
        for name in ("query", "key", "value")
    )
    assert_plain(batch, list(attend(2, query, key, value).split([1, 4])), None)
    assert_plain(batch, list(attend(3, query, key, value).split([1, 4])), 6)
