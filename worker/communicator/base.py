"""What the executor asks of a communicator."""

from typing import Protocol

from torch import Tensor


class Exchange(Protocol):
    """An exchange under way on the communication lane."""

    @property
    def ended_ns(self) -> int | None:
        """When it was done, on `time.perf_counter_ns`; None while it is under way, 0 if there was nothing to do."""
        ...

    def wait(self) -> tuple[Tensor, ...]:
        """Return what it gave; blocks until it is done.

        Raises:
            GroupFailedError: Another rank is gone, or did not come within the limit.
        """
        ...


class Communicator(Protocol):
    """Collectives of the ranks that share a layer, issued by one thread in the same order on every rank."""

    rank: int
    world_size: int

    def all_reduce(self, partial: Tensor) -> Exchange:
        """Bring partial sums together. The exchange gives addends, to be summed in their order; `partial` is its own.

        The sum is bit-identical on all ranks, in the dtype of `partial`. A single addend is `partial` itself, summed in
        place, so that pieces may be exchanged as views of one tensor.
        """
        ...

    def all_gather(self, part: Tensor) -> Exchange:
        """Bring equally shaped parts together. The exchange gives them in rank order."""
        ...

    def abort(self) -> None:
        """End all exchanges under way with an error. May be called from another thread."""
        ...

    def close(self) -> None:
        """Let go of connections. No exchange is under way."""
        ...


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
