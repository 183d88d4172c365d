"""The communicator of a group of one: nothing to exchange."""

from torch import Tensor


class _Done:
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def wait(self) -> tuple[Tensor, ...]:
        return (self._tensor,)


class LocalCommunicator:
    """Gives back what it is given. Implements `Communicator`."""

    rank = 0
    world_size = 1

    def all_reduce(self, partial: Tensor) -> _Done:
        """Return the partial sums: they are the whole."""
        return _Done(partial)

    def all_gather(self, part: Tensor) -> _Done:
        """Return the part: it is the whole."""
        return _Done(part)

    def abort(self) -> None:
        """Do nothing: no exchange ever waits."""

    def close(self) -> None:
        """Do nothing: there are no connections."""
