"""What library kernels are told of a batch, as plain numbers: where sequences begin, which blocks they hold, padding.

A kernel's launch depends on counts and maxima alone; these are rounded up to buckets, so that few graphs serve all
batches. Everything else is values in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from worker.kv_cache import KvCache

_LEAST_QUERIES: Final = 16  # tokens: below, kernels do not differ; above 1, as they treat single queries otherwise
_LEAST_KEYS: Final = 128  # tokens: likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeLayout:
    """Whole inputs, one after another, padding last."""

    cu_seqlens: tuple[int, ...]  # [rows + 1]: where inputs begin, and the end of the last
    max_q: int  # tokens that no input exceeds

    @property
    def num_tokens(self) -> int:
        """Return how many tokens there are with padding."""
        return self.cu_seqlens[-1]

    @property
    def num_rows(self) -> int:
        """Return how many inputs there are with padding."""
        return len(self.cu_seqlens) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedLayout:
    """New tokens of sequences, one after another, and where their keys lie in the cache; padding last."""

    cu_seqlens_q: tuple[int, ...]  # [rows + 1]: where new tokens begin, and the end of the last
    kv_lengths: tuple[int, ...]  # [rows]: tokens that each sees at its last, itself included
    tables: tuple[tuple[int, ...], ...]  # by row: its blocks, as many as its tokens fill
    slot_mapping: tuple[int, ...]  # [num_tokens]: where keys and values go
    max_q: int  # new tokens that no sequence exceeds
    max_k: int  # tokens that none exceeds

    @property
    def num_tokens(self) -> int:
        """Return how many new tokens there are with padding."""
        return self.cu_seqlens_q[-1]

    @property
    def num_rows(self) -> int:
        """Return how many sequences there are with padding."""
        return len(self.kv_lengths)

    def block_table(self, width: int, filler: int = 0) -> list[int]:
        """Return [rows * width]: each row's blocks, filled up with `filler`."""
        flat: list[int] = []
        for table in self.tables:
            flat += table
            flat += [filler] * (width - len(table))
        return flat

    def kv_indptr(self) -> list[int]:
        """Return [rows + 1]: where each row's blocks begin, if the rows' follow one another."""
        return [0, *accumulate(map(len, self.tables))]

    def last_block_lengths(self, block_size: int) -> list[int]:
        """Return [rows]: tokens in each row's last block."""
        return [(length - 1) % block_size + 1 for length in self.kv_lengths]


def bucket_of(count: int, least: int = 1, most: int | None = None) -> int:
    """Return the power of two that holds a count, from `least` on; not above `most`, which holds it too."""
    bucket = max(least, 1 << (count - 1).bit_length())
    return bucket if most is None else min(bucket, max(most, count))


def lay_out_encode(
    lengths: Sequence[int], *, max_length: int, padded_tokens: int | None = None, padded_rows: int | None = None
) -> EncodeLayout:
    """Lay out whole inputs.

    Args:
        lengths: Tokens of each.
        max_length: Tokens of the longest there can be.
        padded_tokens: See `AttentionBackend.encode`; None pads nothing, and takes the true maximum.
        padded_rows: Likewise.
    """
    if padded_tokens is None:
        return EncodeLayout(cu_seqlens=(0, *accumulate(lengths)), max_q=max(lengths))
    max_q = bucket_of(max(lengths), _LEAST_QUERIES, max_length)
    dummies = _dummies(padded_tokens - sum(lengths), len(lengths), padded_rows, max_q)
    return EncodeLayout(cu_seqlens=(0, *accumulate([*lengths, *dummies])), max_q=max_q)


def lay_out_paged(
    cache: KvCache,
    *,
    num_tokens: Sequence[int],
    starts: Sequence[int],
    block_tables: Sequence[Sequence[int]],
    max_length: int,
    padded_tokens: int | None = None,
    padded_rows: int | None = None,
) -> PagedLayout:
    """Lay out new tokens of sequences; see `AttentionBackend.paged` for the arguments."""
    size = cache.block_size
    lengths = [start + count for start, count in zip(starts, num_tokens, strict=True)]
    tables = [tuple(table[: blocks_of(length, size)]) for table, length in zip(block_tables, lengths, strict=True)]
    counts, firsts = list(num_tokens), list(starts)
    max_q, max_k = max(counts), max(lengths)
    if padded_tokens is not None:
        max_q = 1 if max_q == 1 else bucket_of(max_q, _LEAST_QUERIES, max_length)
        max_k = bucket_of(max_k, _LEAST_KEYS, max_length)
        dummies = _dummies(padded_tokens - sum(counts), len(counts), padded_rows, max_q)
        counts += dummies
        firsts += [0] * len(dummies)
        lengths += [max(1, dummy) for dummy in dummies]  # kernels want a key in every row
        tables += [(scratch_of(cache),) * blocks_of(max(1, dummy), size) for dummy in dummies]
    slots = [
        table[position // size] * size + position % size
        for table, first, count in zip(tables, firsts, counts, strict=True)
        for position in range(first, first + count)
    ]
    return PagedLayout(
        cu_seqlens_q=(0, *accumulate(counts)),
        kv_lengths=tuple(lengths),
        tables=tuple(tables),
        slot_mapping=tuple(slots),
        max_q=max_q,
        max_k=max_k,
    )


def blocks_of(num_tokens: int, block_size: int) -> int:
    """Return how many blocks tokens fill."""
    return -(-num_tokens // block_size)


def scratch_of(cache: KvCache) -> int:
    """Return the cache's scratch block."""
    assert cache.scratch_block is not None, "a batch is padded only where there is a scratch block"
    return cache.scratch_block


def _dummies(num_tokens: int, num_rows: int, padded_rows: int | None, longest: int) -> list[int]:
    """Return tokens of each row that fills up a batch.

    Full ones first, then the rest, then empty ones, up to `padded_rows` or more rows in all, a power of two unless
    `padded_rows` says so; of single tokens no row is empty.
    """
    assert num_tokens >= 0, "a bucket holds its batch"
    filled = [min(longest, num_tokens - first) for first in range(0, num_tokens, longest)]
    needed = num_rows + len(filled)
    rows = max(needed, padded_rows or 0) if padded_rows and needed <= padded_rows else bucket_of(needed)
    if longest == 1:
        assert padded_rows is None or padded_rows == needed, "in decode, rows are tokens"
        rows = needed
    return filled + [0] * (rows - needed)
