"""The CPU: compute is done when its launch returns."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from liger.domain import BatchKind
from worker.arenas import HeapArena
from worker.attention.interface import AttentionBackend, AttentionShape
from worker.attention.reference import ReferenceAttention
from worker.memory import free_bytes
from worker.recorder import HostRecorder
from worker.sampling.picking import pick_noisy
from worker.sampling.transfers import stage_here
from worker.shards.ops import TorchOps

_ARENA: Final = HeapArena()


class CpuDevice:
    """Some threads of this machine. Implements `Device`.

    Args:
        num_threads: For compute.
        clock_ns: Monotonic nanoseconds.
    """

    torch_device = torch.device("cpu")
    runs_ahead = False
    kv_fraction = 0.1  # ranks may share a machine

    def __init__(self, num_threads: int, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.name = f"cpu ({num_threads} thread{'s' if num_threads > 1 else ''})"
        self.ops = TorchOps()
        self.pick = pick_noisy
        self._num_threads = num_threads
        self._clock_ns = clock_ns

    def bring(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        """Return numbers as a tensor."""
        return stage_here(values, dtype)

    def enter(self) -> None:
        """Set the number of threads."""
        torch.set_num_threads(self._num_threads)

    def free_bytes(self) -> int:
        """Return the memory that may still be taken."""
        return free_bytes()

    def attention(self, shape: AttentionShape) -> AttentionBackend:
        """Return the reference."""
        return ReferenceAttention(shape)

    def arena(self, slot: int) -> HeapArena:
        """Return memory that is new for each tensor."""
        del slot
        return _ARENA

    def bucket(self, kind: BatchKind, num_tokens: int) -> None:
        """Pad nothing."""
        del kind, num_tokens

    def new_recorder(self) -> HostRecorder:
        """Return what times by the host's clock."""
        return HostRecorder(self._clock_ns)

    def new_capturer(self) -> None:
        """Return nothing."""

    def begin_window(self) -> None:
        """Do nothing: memory is taken as it is needed."""

    def fetch(self, tensor: Tensor) -> Tensor:
        """Return the tensor, which is on the host."""
        return tensor

    def end_window(self) -> "CpuDevice":
        """Return what waits for nothing."""
        return self

    def wait(self) -> None:
        """Do nothing: compute was done when its launch returned."""

    def release(self) -> None:
        """Do nothing: no memory is reused."""

    def begin_epoch(self) -> None:
        """Do nothing: no outcome is read late."""

    def give_up(self) -> None:
        """Do nothing: exchanges that end by force raise."""

    def leave(self) -> None:
        """Do nothing: no memory is held."""
