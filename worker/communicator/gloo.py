"""Collectives of CPU ranks by Gloo: TCP, in Gloo's own threads, so that they run beside compute."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from liger.errors import GroupFailedError

_GLOO: Any = dist.ProcessGroupGloo  # torch's stubs leave its methods out


class GlooExchange:
    """One collective under way."""

    def __init__(self, work: Any, result: Callable[[], tuple[Tensor, ...]]) -> None:
        self._work = work
        self._result = result

    def wait(self) -> tuple[Tensor, ...]:
        """Return what it gave."""
        try:
            self._work.wait()
        except RuntimeError as error:
            raise GroupFailedError(f"an exchange with the other ranks failed: {_first_line(error)}") from error
        return self._result()


class GlooCommunicator:
    """One Gloo process group for one epoch. Implements `Communicator`.

    Args:
        store: Rendezvous keys of this epoch alone.
        rank: This rank.
        world_size: All ranks.
        host: Address of this rank's interface for exchanges.
        limit_s: Longest wait for the other ranks, in seconds.

    Raises:
        GroupFailedError: The ranks did not find one another within the limit.
    """

    def __init__(self, store: Any, *, rank: int, world_size: int, host: str, limit_s: float) -> None:
        self.rank = rank
        self.world_size = world_size
        options = _GLOO._Options()  # noqa: SLF001 - the only way to name the interface
        options._devices = [_GLOO.create_device(hostname=host)]  # noqa: SLF001
        options._timeout = timedelta(seconds=limit_s)  # noqa: SLF001
        try:
            self._group = _GLOO(store, rank, world_size, options)
        except RuntimeError as error:
            raise GroupFailedError(f"the ranks did not find one another: {_first_line(error)}") from error

    def all_reduce(self, partial: Tensor) -> GlooExchange:
        """Sum partial sums in place; Gloo gives every rank the same bytes."""
        return GlooExchange(self._group.allreduce([partial]), lambda: (partial,))

    def all_gather(self, part: Tensor) -> GlooExchange:
        """Bring equally shaped parts together, in rank order."""
        parts = [torch.empty_like(part) for _ in range(self.world_size)]
        return GlooExchange(self._group.allgather([parts], [part]), lambda: tuple(parts))

    def abort(self) -> None:
        """End all exchanges under way with an error."""
        self._group.abort()

    def close(self) -> None:
        """Let go of connections."""
        self._group.shutdown()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
