"""Exchanges of CPU ranks by Gloo: TCP, in Gloo's own threads, so that they run beside compute."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from liger.errors import GroupFailedError

_GLOO: Any = dist.ProcessGroupGloo  # torch's stubs leave its methods out
_NUM_THREADS: Final = 2  # beside busy compute, one falls behind


class GlooExchange:
    """One exchange under way."""

    span = None

    def __init__(self, work: Any, result: Callable[[], tuple[Tensor, ...]]) -> None:
        self._work = work
        self._result = result
        ended: list[int] = []  # the callback holds no more than this, or exchanges would hold themselves
        work.get_future().add_done_callback(lambda _: ended.append(time.perf_counter_ns()))
        self._ended = ended

    @property
    def ended_ns(self) -> int | None:
        """When it was done; None while it is under way."""
        return self._ended[0] if self._ended else None

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
        store: Rendezvous keys of this group and epoch alone.
        rank: This rank's place in the group.
        world_size: Ranks of the group.
        host: Address of this rank's interface for exchanges.
        limit_s: Longest wait for the other ranks, in seconds.

    Raises:
        GroupFailedError: The ranks did not find one another within the limit.
    """

    def __init__(self, store: Any, *, rank: int, world_size: int, host: str, limit_s: float) -> None:
        self.rank = rank
        self.world_size = world_size
        self.is_beside = False
        self.timed = False  # on the CPU every exchange tells its end
        options = _GLOO._Options()  # noqa: SLF001 - the only way to name the interface
        options._devices = [_GLOO.create_device(hostname=host)]  # noqa: SLF001
        options._timeout = timedelta(seconds=limit_s)  # noqa: SLF001
        options._threads = _NUM_THREADS  # noqa: SLF001
        try:
            self._group = _GLOO(store, rank, world_size, options)
        except RuntimeError as error:
            raise GroupFailedError(f"the ranks did not find one another: {_first_line(error)}") from error

    def partial(self, slot: int, place: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return new memory each time."""
        del slot, place
        return torch.empty(shape, dtype=dtype)

    def all_reduce(self, partial: Tensor) -> GlooExchange:
        """Sum partial sums in place; Gloo gives every rank the same bytes."""
        return GlooExchange(self._group.allreduce([partial]), lambda: (partial,))

    def all_gather(self, part: Tensor) -> GlooExchange:
        """Bring equally shaped parts together, in rank order."""
        parts = [torch.empty_like(part) for _ in range(self.world_size)]
        return GlooExchange(self._group.allgather([parts], [part]), lambda: tuple(parts))

    def broadcast(self, tensor: Tensor) -> GlooExchange:
        """Bring rank 0's tensor into every rank's."""
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        return GlooExchange(self._group.broadcast([tensor], options), lambda: (tensor,))

    def abort(self) -> None:
        """End all exchanges under way with an error."""
        self._group.abort()

    def close(self) -> None:
        """Let go of connections."""
        self._group.shutdown()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
