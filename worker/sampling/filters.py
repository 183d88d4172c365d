"""Which tokens may be drawn: temperature, top-k, top-p, min-p, in this order (as transformers applies them)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from liger.domain import Sampling


def filtered_logits(logits: Tensor, rows: Sequence[Sampling]) -> Tensor:
    """Return logits over temperature, with -inf for tokens that may not be drawn.

    Args:
        logits: [rows, vocabulary] float32, whole.
        rows: How each row is drawn, temperature above 0.
    """
    temperatures = _column(logits, [row.temperature for row in rows])
    scaled = logits / temperatures
    if all(row.top_k == 0 and row.top_p >= 1.0 and row.min_p == 0.0 for row in rows):
        return scaled
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    keep &= _top_k(ordered, rows)
    keep &= _top_p(ordered.masked_fill(~keep, -torch.inf), rows)
    keep &= _min_p(ordered, rows)
    return torch.full_like(scaled, -torch.inf).scatter(-1, order, ordered.masked_fill(~keep, -torch.inf))


def _top_k(ordered: Tensor, rows: Sequence[Sampling]) -> Tensor:
    """Keep the k likeliest, and all that are as likely as the last of them."""
    size = ordered.shape[-1]
    last = torch.tensor([min(row.top_k or size, size) - 1 for row in rows], device=ordered.device).unsqueeze(-1)
    return ordered >= ordered.gather(-1, last)


def _top_p(ordered: Tensor, rows: Sequence[Sampling]) -> Tensor:
    """Keep the smallest set whose probability reaches p; never less than the likeliest token."""
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # mass of likelier tokens
    limits = _column(ordered, [row.top_p for row in rows])
    return (before < limits) | (limits >= 1.0)


def _min_p(ordered: Tensor, rows: Sequence[Sampling]) -> Tensor:
    """Keep tokens with at least the given share of the likeliest one's probability."""
    shares = _column(ordered, [row.min_p for row in rows])
    return ordered - ordered[:, :1] >= shares.log()


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).unsqueeze(-1)
