"""Which tokens may be drawn: top-k, top-p, min-p, typical-p, in this order, each over what the ones before left.

As transformers' warpers of these names, but in float64, with equal values in the order of `ranking`, and with masses
compared in steps of 2^-40: the order in which shards' sums are added moves no boundary.

A row may be known in part: its largest values, and a bound on all others. It is decided if no other could be kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from liger.domain import Sampling
from worker.sampling.masses import Masses, depths

_STEPS: Final = 2.0**40
_FARTHEST: Final = 2.0**60  # steps from the entropy, of what is not left


def is_filtered(sampling: Sampling) -> bool:
    """Return whether some tokens are left out by their likelihood."""
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0 or sampling.typical_p < 1.0


def needs_masses(sampling: Sampling) -> bool:
    """Return whether a filter asks for sums over the whole row: those over what top-k left are known without."""
    is_typical_alone = sampling.typical_p < 1.0 and sampling.min_p == 0.0
    return sampling.top_k == 0 and (sampling.top_p < 1.0 or is_typical_alone)


@dataclass(frozen=True, slots=True)
class Filters:
    """How some rows are filtered; each [rows, 1] float64."""

    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    typical_p: Tensor
    has_typical: bool  # whether any row has typical-p

    @classmethod
    def of(cls, columns: Tensor, rows: Sequence[Sampling]) -> "Filters":
        """Return those of some rows from `filter_columns` of them, as a tensor [4, rows] float64."""
        top_k, top_p, min_p, typical_p = columns.unsqueeze(-1)
        return cls(top_k, top_p, min_p, typical_p, has_typical=any(row.typical_p < 1.0 for row in rows))

    def select(self, places: Tensor) -> "Filters":
        """Return those of some rows [n] int64."""
        top_k, top_p, min_p, typical_p = (
            part.index_select(0, places) for part in (self.top_k, self.top_p, self.min_p, self.typical_p)
        )
        return Filters(top_k, top_p, min_p, typical_p, has_typical=self.has_typical)


def filter_columns(rows: Sequence[Sampling]) -> list[list[float]]:
    """Return what `Filters` are made from, a list for each filter with a number for each row."""
    return [[float(getattr(row, name)) for row in rows] for name in ("top_k", "top_p", "min_p", "typical_p")]


def keep_tokens(values: Tensor, bound: Tensor, filters: Filters, masses: Masses | None) -> tuple[Tensor, Tensor]:
    """Return which of the likeliest tokens are kept [rows, n] bool, and for which rows that is all [rows] bool.

    Args:
        values: [rows, n] float32, in order: logits over temperature; -inf for what may not be drawn.
        bound: [rows] float32: no other token has more; -inf if none of the others may be drawn.
        filters: Of the rows, whose temperatures are above 0.
        masses: Of the whole rows; None if none of them needs any.
    """
    depth = depths(values, values[:, :1])
    weights = depth.exp()
    top_k, top_p, min_p, typical_p = filters.top_k, filters.top_p, filters.min_p, filters.typical_p
    kept = values > -torch.inf
    least = _kth_value(values, top_k)
    kept &= values >= least
    is_sure = (bound < least.squeeze(-1)) | (top_k.squeeze(-1) == 0)
    left = weights * kept
    total = left.sum(-1) if masses is None else torch.where(top_k.squeeze(-1) > 0, left.sum(-1), masses.total)
    kept &= _top_p(left, total, top_p) & (depth >= min_p.log())
    is_sure &= bound < torch.where(kept, values, torch.inf).amin(-1)
    if filters.has_typical:
        is_free = ((top_k == 0) & (top_p >= 1.0) & (min_p == 0.0)).squeeze(-1)
        typical = _Typical(depth, weights * kept, masses, is_free, typical_p)
        is_sure = torch.where(
            is_free & (typical_p.squeeze(-1) < 1.0),
            typical.is_outside(depths(bound.unsqueeze(-1), values[:, :1])),
            is_sure,
        )
        kept &= typical.keep | (typical_p >= 1.0)
    return kept, is_sure | (bound == -torch.inf)


def _kth_value(values: Tensor, top_k: Tensor) -> Tensor:
    """Return the least value that top-k keeps, [rows, 1]; all that equal it are kept too."""
    size = values.shape[-1]
    places = torch.where(top_k > 0, top_k, size).clamp_(max=size).to(torch.int64) - 1
    return torch.where(top_k > 0, values.gather(-1, places), -torch.inf)


def _top_p(left: Tensor, total: Tensor, top_p: Tensor) -> Tensor:
    """Keep the smallest set whose mass reaches p; never less than the likeliest token."""
    before = left.cumsum(-1).roll(1, dims=-1)  # mass of likelier tokens
    before[:, 0] = 0.0
    kept = (_steps(before / total.unsqueeze(-1)) < _steps(top_p)) | (top_p >= 1.0)
    kept[:, 0] = True
    return kept


class _Typical:
    """Locally typical sampling (Meister et al. 2023): the tokens whose surprise is nearest to the entropy.

    Args:
        depth: [rows, n] float64: logits less the row's largest.
        left: [rows, n] float64: exp(depth) of the tokens that are left.
        masses: See `keep_tokens`.
        is_free: [rows] bool: whether no other filter came before, so that the masses are the whole row's.
        typical_p: [rows, 1].
    """

    def __init__(self, depth: Tensor, left: Tensor, masses: Masses | None, is_free: Tensor, typical_p: Tensor) -> None:
        total, moment = left.sum(-1), (left * depth).sum(-1)
        if masses is not None:
            total = torch.where(is_free, masses.total, total)
            moment = torch.where(is_free, masses.moment, moment)
        total = total.unsqueeze(-1)
        self._mean = moment.unsqueeze(-1) / total
        # surprise - entropy = (log total - depth) - (log total - mean depth)
        distance = _steps(self._mean - depth).abs_().masked_fill_(left == 0, _FARTHEST).to(torch.int64)
        ordered, order = distance.sort(dim=-1)  # integers: twice as fast
        mass = left.gather(-1, order).cumsum(-1) / total
        count = (_steps(mass) < _steps(typical_p)).sum(-1, keepdim=True).clamp_(max=depth.shape[-1] - 1)
        self._farthest = ordered.gather(-1, count)
        self.keep = distance <= self._farthest

    def is_outside(self, depth: Tensor) -> Tensor:
        """Return for which rows all tokens of some depth [rows, 1] or more are too far off, [rows] bool."""
        return (_steps(self._mean - depth) > self._farthest).squeeze(-1)


def _steps(mass: Tensor) -> Tensor:
    return (mass * _STEPS).round()
