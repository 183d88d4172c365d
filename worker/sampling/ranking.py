"""The order of tokens: the larger value first, of equal values the lower id. The same on any number of shards."""

from typing import Final, NamedTuple

import torch
from torch import Tensor

NO_ID: Final = (1 << 31) - 1  # of padding: behind all tokens
_NUMBERS_AT_ONCE: Final = 1 << 22  # that are held as int64 meanwhile


def rank_tokens(values: Tensor, ids: Tensor) -> Tensor:
    """Return the places [rows, n] of the first, second … of values [rows, n] float32, with their ids."""
    return _ranks(values, ids).argsort(dim=-1, descending=True)


def first_tokens(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the first `count` of each row of [rows, n] float32, in order, with their places in the row.

    Which of equal values `topk` takes is not said, so rows where that matters are looked at again; on a device that
    would have to wait for, all are ranked as integers of which none are equal.
    """
    if not values.is_cpu:
        places = _first_places(values, count) if count else values.new_empty(len(values), 0, dtype=torch.int64)
        return values.gather(-1, places), places
    found, places = values.topk(count, dim=-1)
    if count:
        last = found[:, -1:]
        for row in ((values >= last).sum(-1) > count).nonzero().flatten().tolist():
            able = (values[row] >= last[row]).nonzero().T
            places[row] = able[0, rank_tokens(values[row, able], able)[0, :count]]
        found = values.gather(-1, places)
    order = rank_tokens(found, places)
    return found.gather(-1, order), places.gather(-1, order)


class Found(NamedTuple):
    """Tokens of some rows, each [rows, n]."""

    scores: Tensor  # float32
    ids: Tensor  # int64
    raw: Tensor | None = None  # float32: logits as the model gave them; of no width if they were not asked for

    def ranked(self) -> "Found":
        """Return the same in order."""
        order = rank_tokens(self.scores, self.ids)
        raw = self.raw.gather(-1, order) if self.raw is not None and self.raw.shape[-1] else None
        return Found(self.scores.gather(-1, order), self.ids.gather(-1, order), raw)

    def first_columns(self, count: int) -> "Found":
        """Return the first `count` of each row."""
        return Found(*(part[:, :count] for part in self if part is not None))


def rank_whole(scores: Tensor, raw: Tensor | None, count: int) -> Found:
    """Return the first `count` tokens of whole rows [rows, vocabulary] in order; of equals at the end, any.

    Args:
        scores: float32.
        raw: See `Found`.
        count: At most as many as there are.
    """
    if count < scores.shape[-1]:
        values, ids = scores.topk(count, dim=-1)
    else:
        values, ids = scores, torch.arange(count, device=scores.device).expand_as(scores)
    return Found(values, ids, None if raw is None else raw.gather(-1, ids)).ranked()


def _ranks(values: Tensor, ids: Tensor) -> Tensor:
    """Return int64 numbers that are larger for tokens that come earlier."""
    bits = (values + 0.0).view(torch.int32).to(torch.int64)  # -0.0 becomes 0.0
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # as integers in the order of the floats
    return (rising << 32) - ids


def _first_places(values: Tensor, count: int) -> Tensor:
    """Return the places of the first `count` of each row, [rows, count] int64, in order."""
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, values.shape[-1]))
    ids = torch.arange(values.shape[-1], device=values.device)
    return torch.cat([_ranks(part, ids).topk(count, dim=-1).indices for part in torch.split(values, at_once)])
