"""What segments of either kind offer."""

from typing import Protocol

from torch import Tensor

from worker.communicator.copy_engine.layout import Addresses


class Segments(Protocol):
    """All ranks' segments, mapped here, with this rank's partial sums and inboxes.

    They belong to one epoch. A rank that was evicted and wakes later may still write what it had enqueued: it writes
    into these, which nobody looks at any more, and never into those of a new epoch. Their memory is the system's again
    only once every process that mapped it has closed or died.
    """

    addresses: Addresses
    partials: Tensor  # bytes
    inboxes: Tensor  # bytes

    def poison(self) -> None:
        """Set all flags that this rank awaits, from its own host, so that its lanes go on. From any thread."""
        ...

    def close(self) -> None:
        """Let go of the memory. The device is at rest."""
        ...
