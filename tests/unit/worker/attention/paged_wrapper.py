"""What FlashInfer's BatchPrefillWithPagedKVCacheWrapper does, by the definition, for tests without a GPU."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.support.plain_attention import attend_plainly


class PagedWrapper:
    """Stands in for the wrapper: plans are kept, and what is run must fit what was planned.

    Args:
        float_workspace: For partial results.
        kv_layout: Of the cache.
        use_cuda_graph: Whether memory and launch stay the same.
        buffers: What graphs read.
    """

    made = 0

    def __init__(
        self, float_workspace: Tensor, kv_layout: str, *, use_cuda_graph: bool = False, backend: str, **buffers: Tensor
    ) -> None:
        assert (kv_layout, backend) == ("NHD", "fa2")
        assert len(buffers) == (4 if use_cuda_graph else 0)
        type(self).made += 1
        self._workspace = float_workspace
        self._is_fixed = use_cuda_graph
        self._qo_indptr_buf = buffers.get("qo_indptr_buf")
        self._paged_kv_indptr_buf = buffers.get("paged_kv_indptr_buf")
        self._paged_kv_indices_buf = buffers.get("paged_kv_indices_buf")
        self._paged_kv_last_page_len_buf = buffers.get("paged_kv_last_page_len_buf")
        self._qo_indptr_last = 0
        self._cached_module: Any = None
        self._plan_info: Any = None

    def reset_workspace_buffer(self, floats: Tensor, ints: Tensor) -> None:
        assert floats is self._workspace
        assert ints.dtype is torch.uint8

    def plan(
        self,
        qo_indptr: Tensor,
        kv_indptr: Tensor,
        kv_indices: Tensor,
        last_page_len: Tensor,
        *heads_and_page: int,
        causal: bool,
        window_left: int,
        q_data_type: torch.dtype,
        kv_data_type: torch.dtype,
    ) -> None:
        assert causal
        assert q_data_type is kv_data_type
        assert len(qo_indptr) == len(kv_indptr) == len(last_page_len) + 1
        assert len(kv_indices) == int(kv_indptr[-1])
        self._window_left = window_left
        self._heads_and_page = heads_and_page
        self._cached_module = SimpleNamespace(plan=self._plan)

    def _plan(self, *args: Any) -> list[int]:
        floats, ints, pinned, q_indptr, kv_indptr, kv_lengths, num_tokens, num_rows = args[:8]
        heads, kv_heads, page, is_fixed, dim_qk, dim_vo, causal, left, split, no_split, beside = args[8:]
        assert floats is self._workspace
        assert ints.shape == pinned.shape
        assert (heads, kv_heads, dim_qk, page) == self._heads_and_page
        assert dim_qk == dim_vo
        assert (causal, left, split, no_split, beside) == (True, self._window_left, -1, False, 0)
        assert is_fixed is self._is_fixed
        assert int(q_indptr[-1]) == num_tokens
        assert len(kv_lengths) == num_rows
        self._planned = q_indptr, kv_indptr
        return [num_tokens, num_rows] if is_fixed else [num_tokens, num_rows, int(kv_lengths.max())]

    def run(self, query: Tensor, caches: tuple[Tensor, Tensor], *, out: Tensor) -> Tensor:
        q_indptr, kv_indptr = self._qo_indptr_buf, self._paged_kv_indptr_buf
        assert torch.equal(q_indptr, self._planned[0])
        assert torch.equal(kv_indptr, self._planned[1])
        assert self._plan_info[0] == len(query) == self._qo_indptr_last
        left, size = self._window_left, caches[0].shape[1]
        for row in range(len(q_indptr) - 1):
            mine = slice(int(q_indptr[row]), int(q_indptr[row + 1]))
            blocks = self._paged_kv_indices_buf[int(kv_indptr[row]) : int(kv_indptr[row + 1])].long()
            length = (len(blocks) - 1) * size + int(self._paged_kv_last_page_len_buf[row])
            keys, values = (cache[blocks].flatten(0, 1)[:length] for cache in caches)
            count = mine.stop - mine.start
            if count:
                window = None if left < 0 else left + 1
                attended = attend_plainly(query[mine], keys, values, first=length - count, window=window)
                out[mine] = attended.view(query[mine].shape).to(out.dtype)
        return out
