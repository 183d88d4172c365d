"""Which keys a query sees, as additive masks: 0 where it does, minus infinity where it does not."""

from collections.abc import Sequence

import torch
from torch import Tensor


def length_mask(lengths: Sequence[int], like: Tensor) -> Tensor | None:
    """Return [sequences, 1, 1, keys] for keys padded at the end to the longest; None if nothing is padded."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    keys = torch.arange(longest, device=like.device)
    seen = keys < torch.tensor(lengths, device=like.device).unsqueeze(-1)
    return _additive(seen, like)[:, None, None, :]


def causal_mask(queries: range, keys: range, window: int | None, like: Tensor) -> Tensor:
    """Return [1, 1, queries, keys], both given by position: a query sees `window` keys, itself the last."""
    distance = torch.arange(queries.start, queries.stop, device=like.device).unsqueeze(-1) - torch.arange(
        keys.start, keys.stop, device=like.device
    )
    seen = distance >= 0
    if window is not None:
        seen &= distance < window
    return _additive(seen, like)[None, None]


def _additive(seen: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)
