"""Which keys a query sees, as additive masks: 0 where it does, minus infinity where it does not."""

import torch
from torch import Tensor


def length_mask(lengths: Tensor, longest: int, like: Tensor) -> Tensor | None:
    """Return [sequences, 1, 1, longest] for keys that end after `lengths` [sequences]; None if all reach the end."""
    if bool((lengths == longest).all()):
        return None
    seen = torch.arange(longest) < lengths.unsqueeze(-1)
    return _additive(seen, like)[:, None, None, :]


def causal_mask(queries: range, keys: range, window: int | None, like: Tensor) -> Tensor:
    """Return [1, 1, queries, keys], both given by position: a query sees `window` keys, itself the last."""
    distance = torch.arange(queries.start, queries.stop).unsqueeze(-1) - torch.arange(keys.start, keys.stop)
    seen = distance >= 0
    if window is not None:
        seen &= distance < window
    return _additive(seen, like)[None, None]


def _additive(seen: Tensor, like: Tensor) -> Tensor:
    mask = torch.zeros(seen.shape, dtype=like.dtype).masked_fill_(~seen, -torch.inf)
    return mask.to(like.device)
