"""Attention by torch's kernel for sequences of any lengths: whole inputs, fresh prompts, and the cache where it can."""

import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from worker.attention.interface import Attend, AttentionBackend, AttentionShape, Stage
from worker.attention.library.windows import both_sides, matter
from worker.attention.library.writing import WriteKv, Writer
from worker.attention.metadata import EncodeLayout, PagedLayout, blocks_of, lay_out_encode, lay_out_paged
from worker.kv_cache import KvCache

Kernel = Callable[..., Tensor]
_LEAST_QUERIES: Final = 16  # told to the kernel; for one query it has a way of its own, which wants one in every row
_MOST_HEAD_DIM: Final = 256


class VarlenAttention:
    """Torch's `varlen_attn`. Implements `AttentionBackend`.

    Args:
        shape: What is attended with.
        kernel: `varlen_attn`.
        write: Writes to the cache.
        others: What attends batches that the kernel cannot: over a cache, unless it takes block tables.
    """

    is_capturable = True

    def __init__(self, shape: AttentionShape, *, kernel: Kernel, write: WriteKv, others: AttentionBackend) -> None:
        self._shape = shape
        self._windows = matter(shape)
        self._kernel = kernel
        self._write = write
        self._others = others
        self._grouped = {"enable_gqa": True} if "enable_gqa" in parameters_of(kernel) else {}
        self.takes_tables = takes_tables(kernel, shape)

    def encode(
        self,
        slot: int,
        lengths: Sequence[int],
        *,
        stage: Stage,
        padded_tokens: int | None = None,
        padded_rows: int | None = None,
    ) -> Attend:
        """Prepare attention of whole inputs."""
        shape = self._shape
        padding: dict[str, Any] = {"padded_tokens": padded_tokens, "padded_rows": padded_rows}
        if not shape.causal and any(self._windows):  # whose windows are causal all the same
            return self._others.encode(slot, lengths, stage=stage, **padding)
        layout = lay_out_encode(lengths, max_length=shape.max_length, **padding)
        cu_seqlens = stage("attention_cu_seqlens", layout.cu_seqlens, torch.int32)
        return VarlenAttend(
            self._call(cu_seqlens, layout.max_q),
            sides=self._sides(causal=shape.causal),
            bucket=None if padded_tokens is None else _bucket(layout),
        )

    def paged(
        self,
        slot: int,
        cache: KvCache,
        *,
        num_tokens: Sequence[int],
        starts: Sequence[int],
        block_tables: Sequence[Sequence[int]],
        stage: Stage,
        padded_tokens: int | None = None,
        padded_rows: int | None = None,
    ) -> Attend:
        """Prepare attention over the cache: fresh prompts without reading it."""
        batch: dict[str, Any] = {"num_tokens": num_tokens, "starts": starts, "block_tables": block_tables}
        padding: dict[str, Any] = {"padded_tokens": padded_tokens, "padded_rows": padded_rows}
        is_fresh = not any(starts)
        if not is_fresh and not self.takes_tables:
            return self._others.paged(slot, cache, **batch, stage=stage, **padding)
        layout = lay_out_paged(cache, **batch, max_length=self._shape.max_length, **padding)
        cu_seqlens = stage("attention_cu_seqlens", layout.cu_seqlens_q, torch.int32)
        slot_mapping = stage("attention_slot_mapping", layout.slot_mapping, torch.int64)
        writer = Writer(self._write, cache, slot_mapping)
        bucket = None if padded_tokens is None else ("fresh" if is_fresh else "paged", *_bucket(layout))
        sides = self._sides(causal=True)
        if is_fresh:
            return VarlenAttend(self._call(cu_seqlens, layout.max_q), sides=sides, bucket=bucket, writer=writer)
        call = self._call_paged(cache, layout, cu_seqlens, stage)
        return PagedVarlenAttend(call, cache=cache, sides=sides, bucket=bucket, writer=writer)

    def _sides(self, *, causal: bool) -> list[tuple[int, int]]:
        return [both_sides(window, causal=causal) for window in self._windows]

    def _call(self, cu_seqlens: Tensor, max_q: int) -> Kernel:
        longest = max(max_q, _LEAST_QUERIES)

        def call(query: Tensor, key: Tensor, value: Tensor, sides: tuple[int, int]) -> Tensor:
            return self._kernel(
                query, key, value, cu_seqlens, cu_seqlens, longest, longest, window_size=sides, **self._grouped
            )

        return call

    def _call_paged(self, cache: KvCache, layout: PagedLayout, cu_seqlens: Tensor, stage: Stage) -> Kernel:
        width, ends = blocks_of(layout.max_k, cache.block_size), [0]
        for length in layout.kv_lengths:
            ends.append(ends[-1] + length)
        cu_seqlens_k = stage("attention_cu_seqlens_k", ends, torch.int32)
        lengths = stage("attention_kv_lengths", layout.kv_lengths, torch.int32)
        table = stage("attention_block_table", layout.block_table(width), torch.int32).view(layout.num_rows, width)

        def call(query: Tensor, keys: Tensor, values: Tensor, sides: tuple[int, int]) -> Tensor:
            return self._kernel(
                query,
                keys,
                values,
                cu_seqlens,
                cu_seqlens_k,
                layout.max_q,
                layout.max_k,
                window_size=sides,
                seqused_k=lengths,
                block_table=table,
                num_splits=1,  # with more, torch up to 2.14 writes rows of other sequences (pytorch#194167)
                **self._grouped,
            )

        return call


class VarlenAttend:
    """Attends within the batch, and writes keys and values to the cache if there is one.

    Args:
        call: Takes queries, keys, values and how far to see.
        sides: By layer.
        bucket: See `Attend`.
        writer: Writes to the cache.
    """

    def __init__(
        self,
        call: Kernel,
        *,
        sides: Sequence[tuple[int, int]],
        bucket: Hashable | None,
        writer: Writer | None = None,
    ) -> None:
        self.bucket = bucket
        self._call = call
        self._sides = sides
        self._writer = writer

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend in one layer, see `Attend`."""
        if self._writer is not None:
            self._writer(layer, key, value)
        return self._call(query, key, value, self._sides[layer]).flatten(1)


class PagedVarlenAttend:
    """Writes keys and values to the cache, then attends over it.

    Args:
        call: Takes queries, the cache's keys and values, and how far to see.
        cache: Keys and values.
        sides: By layer.
        bucket: See `Attend`.
        writer: Writes to the cache.
    """

    def __init__(
        self,
        call: Kernel,
        *,
        cache: KvCache,
        sides: Sequence[tuple[int, int]],
        bucket: Hashable | None,
        writer: Writer,
    ) -> None:
        self.bucket = bucket
        self._call = call
        self._cache = cache
        self._sides = sides
        self._writer = writer

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend in one layer, see `Attend`."""
        self._writer(layer, key, value)
        return self._call(query, *self._cache.blocks(layer), self._sides[layer]).flatten(1)


def suits_varlen(kernel: Kernel, shape: AttentionShape) -> bool:
    """Tell whether the kernel takes a model's heads and windows."""
    fits = shape.head_dim % 8 == 0 and shape.head_dim <= _MOST_HEAD_DIM
    return fits and "window_size" in parameters_of(kernel)


def takes_tables(kernel: Kernel, shape: AttentionShape) -> bool:
    """Tell whether the kernel reads a cache of blocks of this size; found by asking it, as its limits differ."""
    size = shape.block_size
    if size is None or not {"block_table", "seqused_k", "num_splits"} <= parameters_of(kernel):
        return False
    like: dict[str, Any] = {"dtype": shape.dtype, "device": shape.device}
    query = torch.zeros(1, shape.num_heads, shape.head_dim, **like)
    blocks = torch.zeros(1, size, shape.num_kv_heads, shape.head_dim, **like)
    ends, one = (torch.tensor(values, dtype=torch.int32, device=shape.device) for values in ([0, 1], [1]))
    table = torch.zeros(1, 1, dtype=torch.int32, device=shape.device)
    try:
        kernel(
            query,
            blocks,
            blocks,
            ends,
            ends,
            1,
            size,
            window_size=(-1, 0),
            enable_gqa=True,
            seqused_k=one,
            block_table=table,
            num_splits=1,
        )
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return False
    return True


def parameters_of(kernel: Kernel) -> set[str]:
    """Return the names of a kernel's parameters."""
    return set(inspect.signature(kernel).parameters)


def _bucket(layout: EncodeLayout | PagedLayout) -> tuple[int, ...]:
    longest = (layout.max_q, layout.max_k) if isinstance(layout, PagedLayout) else (layout.max_q,)
    return layout.num_tokens, layout.num_rows, *longest
