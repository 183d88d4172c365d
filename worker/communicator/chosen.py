"""Takes each all-reduce the way that is better at its size."""

from collections.abc import Callable, Mapping
from enum import StrEnum

import torch
from torch import Tensor

from worker.communicator.base import Communicator, Exchange


class Way(StrEnum):
    """How exchanges of devices go."""

    NCCL = "nccl"
    COPY_ENGINE = "copy-engine"


class ChosenCommunicator:
    """Several ways in one. Implements `Communicator`.

    All ranks take the same way for the same exchange, as the choice and what it is asked are the same on all.

    Args:
        ways: Communicators of the same ranks by name. The first is taken until a choice is set; partial sums lie in the
            copy engines' memory.
    """

    def __init__(self, ways: Mapping[str, Communicator]) -> None:
        copies = ways[Way.COPY_ENGINE]
        self.rank = copies.rank
        self.world_size = copies.world_size
        self.names = tuple(ways)
        self.is_beside = False  # whether compute runs beside the exchanges that follow; told by the schedule
        self._ways = ways
        self._copies = copies
        self._choice: Callable[[int, bool], str] = lambda _, __: self.names[0]

    @property
    def timed(self) -> bool:
        """Whether exchanges note their spans."""
        return self._copies.timed

    @timed.setter
    def timed(self, value: bool) -> None:
        for way in self._ways.values():
            way.timed = value

    @property
    def ways(self) -> Mapping[str, Communicator]:
        """The communicator of each way, by name."""
        return self._ways

    def set_choice(self, choice: Callable[[int, bool], str]) -> None:
        """Take ways as `choice` says from here on, which is asked with bytes and `is_beside`.

        The same on all ranks, between exchanges. Names of no way here mean the first.
        """
        self._choice = choice

    def partial(self, slot: int, place: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return the copy engines' memory of a slot's place."""
        return self._copies.partial(slot, place, shape, dtype)

    def all_reduce(self, partial: Tensor) -> Exchange:
        """Bring partial sums together: one addend by NCCL, two of two ranks by copy engines."""
        name = self._choice(partial.numel() * partial.element_size(), self.is_beside)
        return self._ways.get(name, self._ways[self.names[0]]).all_reduce(partial)

    def all_gather(self, part: Tensor) -> Exchange:
        """Bring equally shaped parts together by copy engines: they are few bytes, and wait for no SM."""
        return self._copies.all_gather(part)

    def abort(self) -> None:
        """End all exchanges under way with an error."""
        for way in self._ways.values():
            way.abort()

    def close(self) -> None:
        """Let go of connections."""
        for way in self._ways.values():
            way.close()
