"""Exchanges of GPUs by NCCL, in its own high-priority stream."""

import logging
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from liger.errors import GroupFailedError
from worker.communicator.base import Span
from worker.communicator.memory import ExchangeMemory, PartialMemory

_LOG: Final = logging.getLogger(__name__)
_ABORT_S: Final = 5.0  # that an abort may take once no graph holds exchanges any more
_DIST: Final[Any] = dist  # torch's stubs leave its methods out
_CUDA: Final[Any] = torch.cuda
_ENVIRONMENT: Final = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "2",  # a late exchange aborts its communicator, not the process
    "TORCH_NCCL_ENABLE_MONITORING": "0",  # nor may a thread of torch's end the process
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
}


class NcclExchange:
    """One exchange under way. Implements `Exchange`."""

    ended_ns = None

    def __init__(self, owner: "NcclCommunicator", work: Any, result: tuple[Tensor, ...], span: Span | None) -> None:
        self._owner = owner
        self._work = work
        self._result = result
        self.span = span

    def wait(self) -> tuple[Tensor, ...]:
        """Let the current stream wait for it, and return what it gives."""
        self._owner.call(self._work.wait)
        return self._result


class NcclCommunicator:
    """One NCCL communicator for one epoch. Implements `Communicator`.

    Args:
        store: Rendezvous keys of this group and epoch alone.
        rank: This rank's place in the group.
        world_size: Ranks of the group, each on its own GPU.
        memory: Sizes of activations, and the device.
        limit_s: Longest wait for the other ranks, in seconds.

    Raises:
        GroupFailedError: The ranks did not find one another within the limit.
    """

    def __init__(self, store: Any, *, rank: int, world_size: int, memory: ExchangeMemory, limit_s: float) -> None:
        self.rank = rank
        self.world_size = world_size
        self.is_beside = False
        self.timed = False
        self._device = memory.device
        self._partials = PartialMemory(memory)
        self._is_aborted = False
        self._aborting: threading.Thread | None = None
        self._watch = _CUDA.Stream(memory.device, priority=-1)  # follows exchanges, for their times
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        options = _DIST.ProcessGroupNCCL.Options(is_high_priority_stream=True)
        options._timeout = timedelta(seconds=limit_s)  # noqa: SLF001 - the only way to set it
        _CUDA.set_device(memory.device)
        self._group = self.call(lambda: _DIST.ProcessGroupNCCL(store, rank, world_size, options))
        first = torch.ones(1, device=memory.device)
        self.all_reduce(first).wait()  # connects, which no graph could capture
        if self.call(first.item) != world_size:
            raise GroupFailedError("the first exchange of the ranks failed")

    def partial(self, slot: int, place: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return the memory of a slot's place."""
        return self._partials.take(slot, place, shape, dtype)

    def all_reduce(self, partial: Tensor) -> NcclExchange:
        """Sum partial sums in place; NCCL gives every rank the same bytes."""
        return self._begin(lambda: self._group.allreduce([partial]), (partial,))

    def all_gather(self, part: Tensor) -> NcclExchange:
        """Bring equally shaped parts together, in rank order."""
        parts = [torch.empty_like(part) for _ in range(self.world_size)]
        return self._begin(lambda: self._group.allgather([parts], [part]), tuple(parts))

    def broadcast(self, tensor: Tensor) -> NcclExchange:
        """Bring rank 0's tensor into every rank's."""
        options = _DIST.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        return self._begin(lambda: self._group.broadcast([tensor], options), (tensor,))

    def abort(self) -> None:
        """End all exchanges under way; does not wait for that.

        NCCL ends kernels at once, but returns only when the last graph is destroyed that holds an exchange. Whoever
        aborts must not be kept from having them destroyed.
        """
        if self._aborting is None:
            self._is_aborted = True
            self._aborting = threading.Thread(target=self._abort, name="nccl-abort", daemon=True)
            self._aborting.start()

    def close(self) -> None:
        """Let go of connections. Graphs that hold exchanges were destroyed before."""
        if self._aborting is None:
            self._group.shutdown()
            return
        self._aborting.join(_ABORT_S)
        if self._aborting.is_alive():
            _LOG.warning("NCCL does not let go of its communicator: a graph may hold it still")

    def _abort(self) -> None:
        try:
            self._group.abort()
        except RuntimeError:
            _LOG.warning("NCCL did not end in good order", exc_info=True)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call NCCL.

        Raises:
            GroupFailedError: It failed, or the exchanges were aborted.
        """
        if self._is_aborted:
            raise GroupFailedError("exchanges were ended: the group's epoch is over")
        try:
            return function()
        except RuntimeError as error:
            first_line = (str(error).splitlines() or [""])[0]
            raise GroupFailedError(f"an exchange with the other ranks failed: {first_line}") from error

    def _begin(self, function: Callable[[], Any], result: tuple[Tensor, ...]) -> NcclExchange:
        if not self.timed or _CUDA.is_current_stream_capturing():
            return NcclExchange(self, self.call(function), result, None)
        watch, began, ended = self._watch, _CUDA.Event(enable_timing=True), _CUDA.Event(enable_timing=True)
        watch.wait_stream(_CUDA.current_stream())
        began.record(watch)  # after the end of the one before, as exchanges run one after another
        work = self.call(function)
        with _CUDA.stream(watch):
            self.call(work.wait)
        ended.record(watch)
        return NcclExchange(self, work, result, (began, ended))
