"""What the executor asks of the ways between pipeline stages."""

from typing import Protocol

from torch import Tensor

from worker.communicator.base import Exchange


class StageLinks(Protocol):
    """Ways to the rank of the same place in other stages. A way keeps its order: the first sent is the first received.

    What is sent moves when the other side receives; no call waits for that.
    """

    def send(self, tensor: Tensor, stage: int) -> Exchange:
        """Send to a stage; `tensor` is the exchange's own."""
        ...

    def receive(self, tensor: Tensor, stage: int) -> Exchange:
        """Receive from a stage into a tensor of the same shape and dtype, which the exchange then gives."""
        ...

    def abort(self) -> None:
        """End all exchanges under way with an error. May be called from another thread."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
