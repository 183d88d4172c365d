"""Which rows of a tensor a computation reads: a run of them, which needs no copy, or any, which does."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a tensor, seen as `count` sequences of `length` rows each."""

    count: int
    length: int
    start: int = 0  # of the run
    index: Tensor | None = None  # [count * length] int64; None for a run from `start`

    def take(self, tensor: Tensor, workspace: Tensor | None = None) -> Tensor:
        """Return [count, heads, length, head_dim] from [rows, heads, head_dim]; without a copy for a run.

        Args:
            tensor: What to read.
            workspace: Where a copy is put, see `workspace`; None allocates.
        """
        if self.index is None:
            taken = tensor[self.start : self.start + self.count * self.length]
        else:
            taken = torch.index_select(tensor, 0, self.index, out=workspace)
        return taken.view(self.count, self.length, *tensor.shape[1:]).transpose(1, 2)

    def workspace(self, like: Tensor) -> Tensor | None:
        """Return memory for copies of tensors like [rows, heads, head_dim]; None if none are made."""
        return None if self.index is None else like.new_empty(len(self.index), *like.shape[1:])


def rows_of(sequences: Sequence[range], device: torch.device | str) -> Rows:
    """Return the rows of sequences of equal length."""
    count, length, start = len(sequences), len(sequences[0]), sequences[0].start
    if all(rows.start == start + place * length for place, rows in enumerate(sequences)):
        return Rows(count, length, start)
    flat = [row for rows in sequences for row in rows]
    return Rows(count, length, index=torch.tensor(flat, device=device))
