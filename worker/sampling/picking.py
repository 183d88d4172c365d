"""The one token of each row and shard that may be drawn, where nothing is filtered."""

from collections.abc import Callable

import torch
from torch import Tensor

from worker.sampling.noise import gumbel_noise

PickNoisy = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Picks as `pick_noisy` does."""


def pick_likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of each row of [rows, n] and its place, the first of equals; both [rows, 1]."""
    places = logits.argmax(-1, keepdim=True)
    return logits.gather(-1, places), places


def pick_noisy(logits: Tensor, temperatures: Tensor, keys: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Pick from logits over temperature with Gumbel noise.

    Args:
        logits: [rows, n] float32, of consecutive ids.
        temperatures: [rows] float32.
        keys: [rows] int64, of `noise_key`.
        first: The id of the first column.

    Returns:
        Of each row the largest sum, float32, and its place, int64, the first of equals; both [rows, 1].
    """
    scores = logits / temperatures.unsqueeze(-1)
    scores += gumbel_noise(keys, torch.arange(first, first + logits.shape[-1], device=logits.device))
    return pick_likeliest(scores)
