"""What torch's varlen_attn computes, by the definition, for tests without a GPU."""

import torch
from torch import Tensor

from tests.support.plain_attention import attend_plainly


class VarlenKernel:
    """Stands in for `varlen_attn` of torch 2.12 and later; keeps what it was told.

    Args:
        block_sizes: Of caches that it reads.
    """

    def __init__(self, *block_sizes: int) -> None:
        self.block_sizes = block_sizes
        self.told: list[tuple[int, ...]] = []  # rows, max_q, max_k of each call

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
        seqused_k: Tensor | None = None,
        block_table: Tensor | None = None,
        num_splits: int | None = None,
    ) -> Tensor:
        assert enable_gqa or query.shape[1] == key.shape[-2]
        assert cu_seq_q.dtype is cu_seq_k.dtype is torch.int32
        if block_table is not None:
            if key.shape[1] not in self.block_sizes:
                raise RuntimeError("Paged KV cache block size must be divisible by 256")
            assert num_splits == 1
        self.told.append((len(cu_seq_q) - 1, max_q, max_k))
        out = torch.full_like(query, torch.nan)
        for row in range(len(cu_seq_q) - 1):
            mine = slice(int(cu_seq_q[row]), int(cu_seq_q[row + 1]))
            theirs = slice(int(cu_seq_k[row]), int(cu_seq_k[row + 1]))
            keys, values = key[theirs], value[theirs]
            if block_table is not None:
                assert seqused_k is not None
                blocks = block_table[row].long()
                keys, values = (pool[blocks].flatten(0, 1)[: int(seqused_k[row])] for pool in (key, value))
            count = mine.stop - mine.start
            assert count <= max_q
            assert len(keys) <= max_k
            if count:
                out[mine] = self._attend(query[mine], keys, values, window_size)
        return out

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, window: tuple[int, int]) -> Tensor:
        left, right = window
        attended = attend_plainly(
            query,
            keys,
            values,
            first=len(keys) - len(query),
            causal=right == 0,
            window=None if left < 0 else left + 1,
        )
        return attended.view(query.shape)
