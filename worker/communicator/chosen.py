"""Takes each all-reduce the way that is faster at its size."""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from worker.communicator.base import Communicator, Exchange


class Way(StrEnum):
    """How an all-reduce goes."""

    NCCL = "nccl"
    COPY_ENGINE = "copy-engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which way all-reduces go, the same on all ranks.

    Each table names, by rising size, the way of exchanges of at most so many bytes; larger ones go as `largest`.
    """

    alone: tuple[tuple[int, Way], ...] = ()
    beside: tuple[tuple[int, Way], ...] = ()  # with compute of another batch beside
    largest: Way

    def way(self, num_bytes: int, *, is_beside: bool) -> Way:
        """Return the way of an exchange."""
        table = self.beside if is_beside else self.alone
        return next((way for most, way in table if num_bytes <= most), self.largest)


class ChosenCommunicator:
    """Two ways in one. Implements `Communicator`.

    All ranks take the same way for the same exchange, as the choice and what it is asked are the same on all.

    Args:
        ways: The communicators of the same ranks; partial sums lie in the copy engines' memory.
        choice: Until another is set.
    """

    def __init__(self, ways: dict[Way, Communicator], choice: Choice) -> None:
        first = ways[Way.COPY_ENGINE]
        self.rank = first.rank
        self.world_size = first.world_size
        self.is_beside = False  # whether compute runs beside the next exchanges; told by the schedule
        self._ways = ways
        self._first = first
        self._choice = choice

    @property
    def timed(self) -> bool:
        """Whether exchanges note their spans."""
        return self._first.timed

    @timed.setter
    def timed(self, value: bool) -> None:
        for way in self._ways.values():
            way.timed = value

    def set_choice(self, choice: Choice) -> None:
        """Choose so from now on. At the same place of their order on all ranks."""
        self._choice = choice

    def partial(self, slot: int, place: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return the copy engines' memory of a slot's place."""
        return self._first.partial(slot, place, shape, dtype)

    def all_reduce(self, partial: Tensor) -> Exchange:
        """Bring partial sums together: one addend by NCCL, two of two ranks by copy engines."""
        way = self._choice.way(partial.numel() * partial.element_size(), is_beside=self.is_beside)
        return self._ways[way].all_reduce(partial)

    def all_gather(self, part: Tensor) -> Exchange:
        """Bring equally shaped parts together by copy engines: they are few bytes, and wait for no SM."""
        return self._first.all_gather(part)

    def abort(self) -> None:
        """End all exchanges under way with an error."""
        for way in self._ways.values():
            way.abort()

    def close(self) -> None:
        """Let go of connections."""
        for way in self._ways.values():
            way.close()
