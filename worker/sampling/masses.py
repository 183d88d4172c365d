"""Sums over a whole distribution from its shards, in float64."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from worker.sampling.packing import pack, unpack_floats

WIDTH: Final = 5  # columns of `shard_masses`
_ROWS_AT_ONCE: Final = 8  # what is held in float64 meanwhile, at least
_NUMBERS_AT_ONCE: Final = 1 << 22  # likewise, on a device with memory of its own
_NOTHING: Final = -800.0  # exp() of it is 0


@dataclass(frozen=True, slots=True)
class Masses:
    """Sums over rows of logits x, each [rows] float64."""

    largest: Tensor
    total: Tensor  # of exp(x - largest)
    moment: Tensor  # of exp(x - largest) * (x - largest)


def shard_masses(logits: Tensor) -> Tensor:
    """Return one shard's sums over [rows, n] float32, to be joined: [rows, WIDTH] float32."""
    largest = logits.amax(-1, keepdim=True)
    bases = torch.where(largest == -torch.inf, 0.0, largest).to(torch.float64)
    at_once = _ROWS_AT_ONCE if logits.is_cpu else max(_ROWS_AT_ONCE, _NUMBERS_AT_ONCE // logits.shape[-1])
    sums = []
    for part, base in zip(torch.split(logits, at_once), torch.split(bases, at_once), strict=True):
        depth = part.to(torch.float64).sub_(base).clamp_(min=_NOTHING)
        weights = depth.exp()
        sums.append(torch.stack([weights.sum(-1), weights.mul_(depth).sum(-1)], dim=-1))
    return torch.cat([largest, pack(torch.cat(sums) if sums else bases.expand(0, 2))], dim=-1)


def join_masses(parts: Tensor) -> Masses:
    """Return the sums over all shards from [ranks, rows, WIDTH] float32."""
    shares = parts[..., 0].to(torch.float64)
    largest = shares.amax(0)
    shift = (shares - torch.where(largest == -torch.inf, 0.0, largest)).clamp_(min=_NOTHING)  # [ranks, rows]
    scale = shift.exp()
    total, moment = unpack_floats(parts[..., 1:WIDTH]).unbind(-1)
    return Masses(largest, (scale * total).sum(0), (scale * (moment + total * shift)).sum(0))


def depths(values: Tensor, largest: Tensor) -> Tensor:
    """Return how far values [rows, n] lie below the largest of their row [rows, 1], float64, bounded."""
    base = torch.where(largest == -torch.inf, 0.0, largest).to(torch.float64)
    return values.to(torch.float64).sub_(base).clamp_(min=_NOTHING)
