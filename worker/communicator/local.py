"""The communicator of a group of one: nothing to exchange."""

from torch import Tensor


class DoneExchange:
    """An exchange without anything to do. Implements `Exchange`."""

    ended_ns = 0

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = tensors

    def wait(self) -> tuple[Tensor, ...]:
        """Return what it gave."""
        return self._tensors


class LocalCommunicator:
    """Gives back what it is given. Implements `Communicator`."""

    rank = 0
    world_size = 1

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
