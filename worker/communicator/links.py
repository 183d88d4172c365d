"""Ways between stages, over Gloo."""

from collections.abc import Mapping

from torch import Tensor

from worker.communicator.base import Exchange
from worker.communicator.gloo import GlooCommunicator
from worker.communicator.local import DoneExchange


class GlooLinks:
    """Ways to other stages, each a group of two whose rank 0 sends. Implements `StageLinks`.

    Args:
        outgoing: By the stage that receives.
        incoming: By the stage that sends.
    """

    def __init__(self, outgoing: Mapping[int, GlooCommunicator], incoming: Mapping[int, GlooCommunicator]) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    def send(self, tensor: Tensor, stage: int) -> Exchange:
        """Send to a stage; Gloo keeps the tensor until it has gone."""
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
