"""What the executor asks of a communicator.

On the CPU calls block; on a device they are stream-ordered: what is given was written by work enqueued on the current
stream, and what is returned may be used by work enqueued on it after `Exchange.wait`.
"""

from typing import Final, Protocol

import torch
from torch import Tensor

PLACES: Final = 2  # of a slot: a layer's two exchanges, after attention and after the MLP, take turns

Span = tuple[torch.cuda.Event, torch.cuda.Event]
"""Timing events before and after an exchange on its lane."""


class Exchange(Protocol):
    """An exchange under way on the communication lane."""

    @property
    def ended_ns(self) -> int | None:
        """When it was done, on `time.perf_counter_ns`; None while it is under way, 0 if there was nothing to do.

        On a device it is always None, as the host does not know: see `span`.
        """
        ...

    @property
    def span(self) -> Span | None:
        """When it ran on its device; None on the CPU, and unless the communicator was `timed` when it began."""
        ...

    def wait(self) -> tuple[Tensor, ...]:
        """Return what it gave.

        On the CPU this blocks until it is done; on a device the current stream does, and the host goes on.

        Raises:
            GroupFailedError: Another rank is gone, or did not come within the limit. On a device, where nobody waits
                for the exchange, it is raised once the communicator was aborted; results since then are worthless.
        """
        ...


class Communicator(Protocol):
    """Collectives of the ranks that share a layer, issued by one thread in the same order on every rank."""

    rank: int
    world_size: int
    timed: bool  # whether exchanges on a device note their `span`; none of those captured in a graph does
    is_beside: bool  # whether other batches compute beside the exchanges that follow; told by the schedule

    def partial(self, slot: int, place: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return memory for a segment's partial sums [num_tokens, hidden], uninitialised, to be given to `all_reduce`.

        On a device it is the same memory each time, and others may read it there. So uses of a slot take turns between
        its `PLACES`, and none is written before the stream has waited for all exchanges of the slot that came before.
        """
        ...

    def all_reduce(self, partial: Tensor) -> Exchange:
        """Bring partial sums together. The exchange gives addends, to be summed in their order; `partial` is its own.

        The addends are the same bytes in the same order on all ranks, in the dtype of `partial`. A single addend is
        `partial` itself, summed in place. `partial` may be consecutive rows of what `partial()` gave: the results of
        such pieces, given in row order, are put together by `worker.communicator.pieces.whole`.
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
