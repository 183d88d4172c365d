"""Attention by its definition, in float64, one query at a time."""

import torch
from torch import Tensor


def attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, *, first: int = 0, causal: bool = True, window: int | None = None
) -> Tensor:
    """Return [queries, heads * head_dim] for queries [queries, heads, head_dim] at positions from `first` on.

    Keys and values are [positions, kv_heads, head_dim], from position 0 on.
    """
    ratio = query.shape[1] // key.shape[1]
    rows = []
    for place, row in enumerate(query.double()):
        stop = first + place + 1 if causal else len(key)
        start = 0 if window is None else max(0, stop - window)
        keys, values = (tensor[start:stop].double().repeat_interleave(ratio, 1) for tensor in (key, value))
        weights = torch.einsum("hd,phd->hp", row, keys).div(row.shape[-1] ** 0.5).softmax(-1)
        rows.append(torch.einsum("hp,phd->hd", weights, values).flatten())
    return torch.stack(rows).float()
