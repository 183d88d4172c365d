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
    start: int  # of the run
    index: Tensor | None = None  # [count * length] int64; None for a run from `start`

    def take(self, tensor: Tensor) -> Tensor:
        """Return [count, heads, length, head_dim] from [rows, heads, head_dim]; without a copy for a run."""
        if self.index is None:
            taken = tensor[self.start : self.start + self.count * self.length]
        else:
            taken = tensor.index_select(0, self.index)
        return taken.view(self.count, self.length, *tensor.shape[1:]).transpose(1, 2)


def rows_of(sequences: Sequence[range], device: torch.device | str) -> Rows:
    """Return the rows of several sequences, each padded to the longest by repeating its own last row."""
    length = max(len(sequence) for sequence in sequences)
    start = sequences[0].start
    flat = [row for sequence in sequences for row in sequence]
    if len(flat) == length * len(sequences) and flat == list(range(start, start + len(flat))):
        return Rows(len(sequences), length, start)
    padded = [[*sequence, *[sequence[-1]] * (length - len(sequence))] for sequence in sequences]
    return Rows(len(sequences), length, 0, torch.tensor(padded, device=device).flatten())


def rows_of_slots(slots: Sequence[Tensor]) -> Rows:
    """Return the cache rows of several sequences (each [n] int64, by position), padded with a slot of their own."""
    length = max(len(sequence) for sequence in slots)
    if len(slots) == 1 and is_run(slots[0]):
        return Rows(1, length, int(slots[0][0]))
    padded = slots[0].new_empty((len(slots), length))
    for row, sequence in zip(padded, slots, strict=True):
        row[: len(sequence)] = sequence
        row[len(sequence) :] = sequence[-1]
    return Rows(len(slots), length, 0, padded.flatten())


def is_run(slots: Tensor) -> bool:
    """Tell whether slots [n] follow one another; they are on the host."""
    return bool(slots[-1] - slots[0] == len(slots) - 1) and bool((slots.diff() == 1).all())
