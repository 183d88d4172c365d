"""The communicator of a group of one: nothing to exchange."""

import torch
from torch import Tensor

from worker.communicator.memory import PartialMemory


class DoneExchange:
    """An exchange without anything to do. Implements `Exchange`."""

    ended_ns = 0
    span = None

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = tensors

    def wait(self) -> tuple[Tensor, ...]:
        """Return what it gave."""
        return self._tensors


class LocalCommunicator:
    """Gives back what it is given. Implements `Communicator`.

    Args:
        memory: Gives memory for partial sums; new memory on the CPU each time if None.
    """

    rank = 0
    world_size = 1

    def __init__(self, memory: PartialMemory | None = None) -> None:
        self.is_beside = False
        self.timed = False
        self._memory = memory

    def partial(self, slot: int, place: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return memory for partial sums."""
        if self._memory is None:
            return torch.empty(shape, dtype=dtype)
        return self._memory.take(slot, place, shape, dtype)

    def all_reduce(self, partial: Tensor) -> DoneExchange:
        """Return the partial sums: they are the whole."""
        return DoneExchange(partial)

    def all_gather(self, part: Tensor) -> DoneExchange:
        """Return the part: it is the whole."""
        return DoneExchange(part)

    def abort(self) -> None:
        """Do nothing: no exchange ever waits."""

    def close(self) -> None:
        """Do nothing: there are no connections."""
