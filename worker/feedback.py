"""Drawn tokens on their way from the last stage to the first."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.communicator.base import Exchange
from worker.sequences import SequenceTable


@dataclass(frozen=True, slots=True)
class _Tokens:
    rows: tuple[int, ...]
    exchange: Exchange


class Feedback:
    """Puts tokens into the first stage's sequence table when they are needed, or when they have come.

    Args:
        table: Running sequences.
        wait: Waits for an exchange.
    """

    def __init__(self, table: SequenceTable, wait: Callable[[Exchange], tuple[Tensor, ...]]) -> None:
        self._table = table
        self._wait = wait
        self._coming: deque[_Tokens] = deque()  # in the order in which they were sent

    def add(self, rows: Sequence[int], exchange: Exchange) -> None:
        """Note that tokens of some rows are coming."""
        while self._coming and self._coming[0].exchange.ended_ns is not None:  # not behind those still on their way
            self._put(self._coming.popleft())
        self._coming.append(_Tokens(tuple(rows), exchange))

    def settle(self, rows: Sequence[int]) -> None:
        """Wait for the tokens of some rows, and for no others'."""
        needed = set(rows)
        left: deque[_Tokens] = deque()
        for tokens in self._coming:
            if needed.isdisjoint(tokens.rows):
                left.append(tokens)
            else:
                self._put(tokens)
        self._coming = left

    def _put(self, tokens: _Tokens) -> None:
        (token_ids,) = self._wait(tokens.exchange)
        rows = torch.tensor(tokens.rows, dtype=torch.int64, device=token_ids.device)
        self._table.put_tokens(rows, token_ids)
