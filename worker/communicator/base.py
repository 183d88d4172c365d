"""What the executor asks of a communicator."""

from typing import Protocol

from torch import Tensor


class Exchange(Protocol):
    """A collective under way on the communication lane."""

    def wait(self) -> tuple[Tensor, ...]:
        """Return what it gave; blocks until it is done.

        Raises:
            GroupFailedError: Another rank is gone, or did not come within the limit.
        """
        ...


class Communicator(Protocol):
    """Collectives of one group in one epoch, issued by one thread in the same order on every rank."""

    rank: int
    world_size: int

    def all_reduce(self, partial: Tensor) -> Exchange:
        """Bring partial sums together. The exchange gives addends, to be summed in their order; `partial` is its own.

        The sum is bit-identical on all ranks, in the dtype of `partial`.
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
