"""What captures launches, to launch them again all at once."""

from collections.abc import Callable
from typing import Protocol

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

    def relay(self, slot: int, exchange: Exchange) -> Exchange:
        """Return an exchange that ends with another, and that a graph of any time may wait for."""
        ...

    @property
    def held_bytes(self) -> int:
        """Memory that graphs hold."""
        ...
