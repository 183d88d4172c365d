"""FlashInfer's wrappers: one for each slot, bucket and window, and the memory that they work in.

FlashInfer plans a batch on the host: how its queries and keys are cut into pieces for the device's processors. The plan
goes to the device in stream order, out of pinned memory, and all layers of one window use it. A wrapper made for graphs
plans every batch of its bucket for the same launch.
"""

from array import array
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from worker.attention.interface import AttentionShape, Stage
from worker.attention.library.windows import left_side
from worker.attention.metadata import PagedLayout

_TILE: Final = 128  # packed queries of the largest piece
_LEAST_WORKSPACE: Final = 256 << 20  # bytes; twice what FlashInfer advises, for large buckets of graphs
_EAGER_PLAN: Final = 8 << 20  # bytes of a plan, FlashInfer's choice
_ALIGNMENT: Final = 64 << 10  # bytes, spare room for what FlashInfer aligns
_PINNED_PLANS: Final = 4  # on their way to the device at once


@dataclass(frozen=True, slots=True)
class HostLayout:
    """What a plan is made of, on the host; all int32."""

    q_indptr: Tensor  # [rows + 1]
    kv_indptr: Tensor  # [rows + 1]
    kv_lengths: Tensor  # [rows]


@dataclass(frozen=True, slots=True)
class DeviceLayout:
    """What kernels read of a batch, in memory of its slot; all int32."""

    q_indptr: Tensor  # [rows + 1]
    kv_indptr: Tensor  # [rows + 1]
    kv_indices: Tensor  # blocks of all rows
    last_lengths: Tensor  # [rows]: tokens of each row's last block


def host_layout(layout: PagedLayout) -> HostLayout:
    """Return a layout's numbers as tensors."""
    return HostLayout(
        q_indptr=as_tensor(layout.cu_seqlens_q),
        kv_indptr=as_tensor(layout.kv_indptr()),
        kv_lengths=as_tensor(layout.kv_lengths),
    )


def device_layout(
    layout: PagedLayout, host: HostLayout, kv_indices: Tensor, stage: Stage, block_size: int
) -> DeviceLayout:
    """Bring a layout to the device; `kv_indices` are its tables, packed."""
    return DeviceLayout(
        q_indptr=stage("attention_q_indptr", host.q_indptr, torch.int32),
        kv_indptr=stage("attention_kv_indptr", host.kv_indptr, torch.int32),
        kv_indices=stage("attention_kv_indices", kv_indices, torch.int32),
        last_lengths=stage("attention_last_lengths", layout.last_block_lengths(block_size), torch.int32),
    )


def as_tensor(values: Iterable[int]) -> Tensor:
    """Return numbers as int32, several times faster than torch does it."""
    return torch.frombuffer(array("i", values), dtype=torch.int32)


class TablePacker:
    """Packs the block tables of one slot's batches; from one step of decode to the next few of them change."""

    def __init__(self) -> None:
        self._tables: Sequence[tuple[int, ...]] = ()  # of the last batch
        self._packed: list[bytes] = []

    def pack(self, tables: Sequence[tuple[int, ...]]) -> Tensor:
        """Return the blocks of all rows, one row after another, int32."""
        packed = [
            kept if table == old else array("i", table).tobytes()
            for table, old, kept in zip(tables, self._tables, self._packed, strict=False)
        ]
        packed += [array("i", table).tobytes() for table in tables[len(packed) :]]
        self._tables, self._packed = tables, packed
        return torch.frombuffer(bytearray().join(packed), dtype=torch.int32)


class Workspace:
    """Memory for partial results of one call; all batches use it in turn, as their attention is in one stream.

    Args:
        shape: What is attended with.
        num_processors: Of the device.
    """

    def __init__(self, shape: AttentionShape, num_processors: int) -> None:
        self._shape = shape
        self._most_pieces = max(1, 2 * num_processors // shape.num_kv_heads)  # of keys, beyond what queries give
        self._piece_bytes = shape.num_heads * (shape.head_dim + 1) * 4
        needed = self._most_pieces * _TILE * self._piece_bytes + _ALIGNMENT
        self.memory = torch.empty(max(needed, _LEAST_WORKSPACE), dtype=torch.uint8, device=shape.device)

    def holds(self, num_tokens: int, num_rows: int) -> bool:
        """Tell whether it is large enough for graphs of a bucket; without graphs it always is."""
        pieces, tile = self._pieces(num_tokens, num_rows)
        return pieces * tile * self._piece_bytes + _ALIGNMENT <= len(self.memory)

    def plan_bytes(self, num_tokens: int, num_rows: int) -> int:
        """Return the memory of a bucket's plan: three numbers and a flag a piece, one a row and one a token."""
        pieces, _ = self._pieces(num_tokens, num_rows)
        return 16 * pieces + 4 * (num_rows + num_tokens) + _ALIGNMENT

    def _pieces(self, num_tokens: int, num_rows: int) -> tuple[int, int]:
        """Return how many pieces a bucket's launch has at most, and how many packed queries one holds at most."""
        ratio = self._shape.num_heads // self._shape.num_kv_heads
        longest = (num_tokens - num_rows + 1) * ratio
        tile = 16 if longest <= 16 else 64 if longest <= 64 or self._shape.head_dim >= 256 else _TILE
        return max(self._most_pieces, -(-num_tokens * ratio // tile) + num_rows - 1), tile


class Plan:
    """One wrapper, planned anew for every batch.

    Args:
        make_wrapper: FlashInfer's BatchPrefillWithPagedKVCacheWrapper.
        shape: What is attended with.
        window: Of the layers it is for.
        workspace: For partial results.
        bucket: Tokens and rows of the batches it is for, if graphs replay its launches; None for any batch.
    """

    def __init__(
        self,
        make_wrapper: Callable[..., Any],
        shape: AttentionShape,
        *,
        window: int | None,
        workspace: Workspace,
        bucket: tuple[int, int] | None,
    ) -> None:
        self._make_wrapper = make_wrapper
        self._shape = shape
        self._left = left_side(window)
        self._workspace = workspace.memory
        num_bytes = _EAGER_PLAN if bucket is None else workspace.plan_bytes(*bucket)
        self._memory = torch.empty(num_bytes, dtype=torch.uint8, device=shape.device)
        self._is_fixed = bucket is not None
        self._pinned = _PinnedRing(num_bytes, shape.device)
        self._wrapper: Any = None

    def prepare(self, layout: PagedLayout, host: HostLayout, device: DeviceLayout) -> Hashable:
        """Plan a batch in the order of the current stream; returns all of the plan that its launch holds fixed."""
        if self._wrapper is None:
            self._wrapper = self._make(host, device)
        wrapper, shape = self._wrapper, self._shape
        wrapper._qo_indptr_buf = device.q_indptr  # noqa: SLF001 - its own setter would copy it once more, and wait
        wrapper._paged_kv_indptr_buf = device.kv_indptr  # noqa: SLF001
        wrapper._paged_kv_indices_buf = device.kv_indices  # noqa: SLF001
        wrapper._paged_kv_last_page_len_buf = device.last_lengths  # noqa: SLF001
        wrapper._qo_indptr_last = layout.num_tokens  # noqa: SLF001
        with self._pinned.take() as pinned:
            plan = wrapper._cached_module.plan(  # noqa: SLF001 - as FlashInfer's own fast_decode_plan does
                self._workspace,
                self._memory,
                pinned,
                host.q_indptr,
                host.kv_indptr,
                host.kv_lengths,
                layout.num_tokens,
                layout.num_rows,
                shape.num_heads,
                shape.num_kv_heads,
                shape.block_size,
                self._is_fixed,
                shape.head_dim,
                shape.head_dim,
                True,  # causal
                self._left,
                -1,  # pieces of keys are of any length
                False,  # keys may be cut
                0,  # no decode beside it
            )
        wrapper._plan_info = plan  # noqa: SLF001
        return tuple(int(number) for number in plan)

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend over the cache's blocks: [num_tokens, heads, head_dim]."""
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        attended: Tensor = self._wrapper.run(query, (keys, values), out=out)
        return attended

    def _make(self, host: HostLayout, device: DeviceLayout) -> Any:
        """Make the wrapper; planning once its own way sets all that does not change, and loads its kernels."""
        fixed = {
            "use_cuda_graph": True,
            "qo_indptr_buf": device.q_indptr,
            "paged_kv_indptr_buf": device.kv_indptr,
            "paged_kv_indices_buf": device.kv_indices,
            "paged_kv_last_page_len_buf": device.last_lengths,
        }
        wrapper = self._make_wrapper(self._workspace, "NHD", backend="fa2", **(fixed if self._is_fixed else {}))
        wrapper.reset_workspace_buffer(self._workspace, self._memory)
        last = (host.kv_lengths - 1) % (self._shape.block_size or 1) + 1
        wrapper.plan(
            host.q_indptr,
            host.kv_indptr,
            device.kv_indices,
            last,
            self._shape.num_heads,
            self._shape.num_kv_heads,
            self._shape.head_dim,
            self._shape.block_size,
            causal=True,
            window_left=self._left,
            q_data_type=self._shape.dtype,
            kv_data_type=self._shape.dtype,
        )
        return wrapper


class _PinnedRing:
    """Pinned memory of one size over and over; each is written again only when the device has read it."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        self._num_bytes = num_bytes
        self._device = device
        self._used: deque[tuple[Tensor, torch.Event]] = deque()

    @contextmanager
    def take(self) -> Iterator[Tensor]:
        """Give the next for the length of a `with`, in which the current stream is told to copy out of it."""
        if len(self._used) < _PINNED_PLANS:
            taken, event = torch.empty(self._num_bytes, dtype=torch.uint8, pin_memory=True), torch.Event(self._device)
        else:
            taken, event = self._used.popleft()
            event.synchronize()  # of four plans ago: over, unless the host runs far ahead
        yield taken
        event.record(torch.cuda.current_stream(self._device))
        self._used.append((taken, event))
