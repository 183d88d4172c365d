"""How work on the lanes is timed, whatever it runs on."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from worker.communicator.base import Exchange

Mark = Any
"""A point of a lane's time, as one stopwatch makes and reads it."""


class Stopwatch(Protocol):
    """Marks points of the lanes' time; used by the thread that launches.

    A run goes: `hold`, then launches with marks between them, then `settle`; only then marks are read.
    """

    runs_later: bool  # whether what is launched runs later, so that the host's clock says nothing of it
    enough_ns: int  # a run that takes less shows little but noise

    def hold(self, launch_ns: int) -> None:
        """Let the compute lane wait for about as long as the host will take to launch a run; what follows waits too.

        So launching is no part of what is timed, as where the host is ahead or a graph is replayed.
        """
        ...

    def mark(self) -> Mark:
        """Mark when all that was launched on the compute lane so far is done."""
        ...

    def beside(self, compute: Callable[[], None], exchanges: Sequence[Exchange]) -> tuple[Mark, Mark]:
        """Run compute beside exchanges that are under way: when the one is done, and when the others are.

        Without exchanges the second mark means nothing.

        Raises:
            GroupFailedError: Another rank is gone.
        """
        ...

    def settle(self) -> int:
        """Wait until all marks are reached; return the nanoseconds that the host took to launch, 0 where it waits."""
        ...

    def between_ns(self, begin: Mark, end: Mark) -> int:
        """Return the nanoseconds between two marks of a settled run; 0 if the end came first."""
        ...
