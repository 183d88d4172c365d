"""What captures launches, to launch them again all at once."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from worker.communicator.base import Exchange


class Graph(Protocol):
    """Launches captured once."""

    def replay(self) -> None:
        """Launch all of it again, on the compute lane."""
        ...


class Capturer(Protocol):
    """What captures on a device."""

    def capture(self, launch: Callable[[], None]) -> Graph:
        """Return what a function launches, without running it.

        Raises:
            RuntimeError: Something in it cannot be captured; the device is as it was.
        """
        ...

    def relay(self, slot: int, exchanges: Sequence[Exchange]) -> "Relayed":
        """Return the exchange, or those of its row pieces, as one that a graph of any time may wait for."""
        ...

    def let_go(self, graphs: Sequence[Graph]) -> None:
        """Let go of graphs, once the device has done with them."""
        ...

    @property
    def held_bytes(self) -> int:
        """Memory that graphs hold."""
        ...


class Relayed:
    """Addends that are there, or will be where a wait of `wait_for` leaves off. Implements `Exchange`.

    Args:
        addends: What the exchange gives.
        wait_for: Lets the current stream wait; None if they are there.
    """

    ended_ns = 0
    span = None

    def __init__(self, addends: tuple[Tensor, ...], wait_for: Callable[[], None] | None = None) -> None:
        self.addends = addends
        self._wait_for = wait_for

    def wait(self) -> tuple[Tensor, ...]:
        """Return the addends."""
        if self._wait_for is not None:
            self._wait_for()
        return self.addends
