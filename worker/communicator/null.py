"""Exchanges that never happen, for benchmarks alone: what a service would do if its links took no time."""

import logging
from typing import Final

import torch
from torch import Tensor

from worker.communicator.base import Communicator, Exchange
from worker.communicator.local import DoneExchange

_LOG: Final = logging.getLogger(__name__)


class NullCommunicator:
    """Leaves out all exchanges of numbers a model computes with. Implements `Communicator`.

    What ranks tell one another, in integers, still goes its way.

    Args:
        inner: Takes the exchanges of integers.
    """

    def __init__(self, inner: Communicator) -> None:
        _LOG.warning("the ranks exchange nothing (--communicator null): all outputs are meaningless")
        self.rank = inner.rank
        self.world_size = inner.world_size
        self.is_beside = False
        self.timed = False
        self._inner = inner

    def partial(self, slot: int, place: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return the inner communicator's memory."""
        return self._inner.partial(slot, place, shape, dtype)

    def all_reduce(self, partial: Tensor) -> Exchange:
        """Give back this rank's own partial sums."""
        return DoneExchange(partial)

    def all_gather(self, part: Tensor) -> Exchange:
        """Give zeros for every rank, so that all ranks draw the same."""
        if not part.is_floating_point():
            return self._inner.all_gather(part)
        return DoneExchange(*[part.new_zeros(part.shape)] * self.world_size)

    def abort(self) -> None:
        """End the exchanges of integers."""
        self._inner.abort()

    def close(self) -> None:
        """Let go of connections."""
        self._inner.close()


class NullLinks:
    """Sends nothing and receives zeros. Implements `StageLinks`."""

    def send(self, tensor: Tensor, stage: int) -> Exchange:
        """Do nothing."""
        del stage
        return DoneExchange(tensor)

    def receive(self, tensor: Tensor, stage: int) -> Exchange:
        """Give zeros."""
        del stage
        return DoneExchange(tensor.zero_())

    def abort(self) -> None:
        """Do nothing: no exchange ever waits."""

    def close(self) -> None:
        """Do nothing: there are no connections."""
