"""Paged attention by FlashInfer."""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from worker.attention.interface import Attend, AttentionBackend, AttentionShape, Stage
from worker.attention.library.plans import Plan, TablePacker, Workspace, device_layout, host_layout
from worker.attention.library.windows import matter
from worker.attention.library.writing import WriteKv, Writer
from worker.attention.metadata import PagedLayout, lay_out_paged
from worker.kv_cache import KvCache

_LOG: Final = logging.getLogger(__name__)
_HEAD_DIMS: Final = (64, 128, 256)  # that its kernels are made for


class FlashInferAttention:
    """FlashInfer's paged kernels, others for batches that need no cache. Implements `AttentionBackend`.

    Args:
        shape: What is attended with, block size included.
        make_wrapper: FlashInfer's BatchPrefillWithPagedKVCacheWrapper.
        write: Writes to the cache.
        others: What attends whole inputs and fresh prompts.
    """

    is_capturable = True

    def __init__(
        self,
        shape: AttentionShape,
        *,
        make_wrapper: Callable[..., Any],
        write: WriteKv,
        others: AttentionBackend,
    ) -> None:
        self._shape = shape
        self._windows = matter(shape)
        self._make_wrapper = make_wrapper
        self._write = write
        self._others = others
        processors = torch.cuda.get_device_properties(shape.device).multi_processor_count
        self._workspace = Workspace(shape, processors)
        self._plans: dict[Hashable, Plan] = {}  # by slot, window and bucket
        self._packers: dict[int, TablePacker] = {}  # by slot

    def encode(
        self,
        slot: int,
        lengths: Sequence[int],
        *,
        stage: Stage,
        padded_tokens: int | None = None,
        padded_rows: int | None = None,
    ) -> Attend:
        """Prepare attention of whole inputs; not FlashInfer's."""
        return self._others.encode(slot, lengths, stage=stage, padded_tokens=padded_tokens, padded_rows=padded_rows)

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
        """Prepare attention over the cache."""
        batch: dict[str, Any] = {"num_tokens": num_tokens, "starts": starts, "block_tables": block_tables}
        padding: dict[str, Any] = {"padded_tokens": padded_tokens, "padded_rows": padded_rows}
        if not any(starts):
            return self._others.paged(slot, cache, **batch, stage=stage, **padding)
        layout = lay_out_paged(cache, **batch, max_length=self._shape.max_length, **padding)
        writer = Writer(self._write, cache, stage("attention_slot_mapping", layout.slot_mapping, torch.int64))
        is_fixed = padded_tokens is not None and self._workspace.holds(layout.num_tokens, layout.num_rows)
        plans, fixed = self._prepare(slot, cache, layout, stage, is_fixed=is_fixed)
        bucket = ("flashinfer", layout.num_tokens, layout.num_rows, fixed) if is_fixed else None
        return FlashInferAttend(cache, plans=plans, windows=self._windows, bucket=bucket, writer=writer)

    def warm(self) -> None:
        """Load the kernels of all layers, which compiles them where that was not done before, and try them.

        Raises:
            RuntimeError: They do not attend as they should.
        """
        shape = self._shape
        size = shape.block_size
        assert size is not None, "paged attention has a cache"
        cache = KvCache.allocate(
            layers=range(len(shape.windows)),
            num_blocks=1,
            block_size=size,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            dtype=shape.dtype,
            device=shape.device,
        )
        _LOG.info("loading FlashInfer's kernels; this takes minutes where they must be compiled")
        self._try(cache)
        self._plans.clear()
        self._packers.clear()

    def _try(self, cache: KvCache) -> None:
        """Attend with one query and one key, which gives the value; twice, as only then a plan is made anew."""
        shape = self._shape

        def stage(_: str, values: Sequence[int] | Tensor, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(values, dtype=dtype).to(shape.device)

        layout = PagedLayout(cu_seqlens_q=(0, 1), kv_lengths=(1,), tables=((0,),), slot_mapping=(0,), max_q=1, max_k=1)
        query = torch.ones(1, shape.num_heads, shape.head_dim, dtype=shape.dtype, device=shape.device)
        for _ in range(2):
            plans, _fixed = self._prepare(-1, cache, layout, stage, is_fixed=False)
            for window, plan in plans.items():
                keys, values = cache.blocks(self._windows.index(window))
                values[0, 0].copy_(torch.arange(1, shape.num_kv_heads + 1, device=shape.device).unsqueeze(-1))
                want = values[0, 0].repeat_interleave(shape.num_heads // shape.num_kv_heads, 0)
                if not torch.equal(plan.run(query, keys, values)[0], want):
                    raise RuntimeError("FlashInfer's kernels do not attend as they should")

    def _prepare(
        self, slot: int, cache: KvCache, layout: PagedLayout, stage: Stage, *, is_fixed: bool
    ) -> tuple[dict[int | None, Plan], tuple[Hashable, ...]]:
        """Plan a batch for each window of the cache's layers; returns the plans, and what their launches hold fixed."""
        host = host_layout(layout)
        if slot not in self._packers:
            self._packers[slot] = TablePacker()
            reserved = torch.zeros(2 * cache.num_blocks, dtype=torch.int32)  # so that it hardly ever grows, and moves
            stage("attention_kv_indices", reserved, torch.int32)
        kv_indices = self._packers[slot].pack(layout.tables)
        device = device_layout(layout, host, kv_indices, stage, cache.block_size)
        bucket = (layout.num_tokens, layout.num_rows) if is_fixed else None
        plans = {
            window: self._plan(slot, window, bucket)
            for window in dict.fromkeys(self._windows[layer] for layer in cache.layers)
        }
        return plans, tuple(plan.prepare(layout, host, device) for plan in plans.values())

    def _plan(self, slot: int, window: int | None, bucket: tuple[int, int] | None) -> Plan:
        key = slot, window, bucket
        if key not in self._plans:
            self._plans[key] = Plan(
                self._make_wrapper, self._shape, window=window, workspace=self._workspace, bucket=bucket
            )
        return self._plans[key]


class FlashInferAttend:
    """Writes keys and values to the cache, then attends over it.

    Args:
        cache: Keys and values.
        plans: By window.
        windows: By layer.
        bucket: See `Attend`.
        writer: Writes to the cache.
    """

    def __init__(
        self,
        cache: KvCache,
        *,
        plans: Mapping[int | None, Plan],
        windows: Sequence[int | None],
        bucket: Hashable | None,
        writer: Writer,
    ) -> None:
        self.bucket = bucket
        self._cache = cache
        self._plans = plans
        self._windows = windows
        self._writer = writer

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend in one layer, see `Attend`."""
        self._writer(layer, key, value)
        return self._plans[self._windows[layer]].run(query, *self._cache.blocks(layer)).flatten(1)


def suits_flashinfer(shape: AttentionShape) -> bool:
    """Tell whether its kernels are made for a model's heads."""
    return shape.block_size is not None and shape.head_dim in _HEAD_DIMS
