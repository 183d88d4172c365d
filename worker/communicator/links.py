"""Ways between stages, over groups of two: Gloo's on the CPU, NCCL's between devices."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from worker.communicator.base import Exchange
from worker.communicator.local import DoneExchange


class Pair(Protocol):
    """A group of two, whose rank 0 sends."""

    def broadcast(self, tensor: Tensor) -> Exchange:
        """Bring rank 0's tensor into the other's."""
        ...

    def abort(self) -> None:
        """End all exchanges under way with an error."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class PairLinks:
    """Ways to other stages. Implements `StageLinks`.

    Args:
        outgoing: By the stage that receives.
        incoming: By the stage that sends.
    """

    def __init__(self, outgoing: Mapping[int, Pair], incoming: Mapping[int, Pair]) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    def send(self, tensor: Tensor, stage: int) -> Exchange:
        """Send to a stage; the pair keeps the tensor until it has gone."""
        return self._outgoing[stage].broadcast(tensor) if tensor.numel() else DoneExchange(tensor)

    def receive(self, tensor: Tensor, stage: int) -> Exchange:
        """Receive from a stage."""
        return self._incoming[stage].broadcast(tensor) if tensor.numel() else DoneExchange(tensor)

    def abort(self) -> None:
        """End all exchanges under way with an error."""
        for link in (*self._outgoing.values(), *self._incoming.values()):
            link.abort()

    def close(self) -> None:
        """Let go of connections."""
        for link in (*self._outgoing.values(), *self._incoming.values()):
            link.close()
