"""What a rank's engine asks of the device that it computes on."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from liger.domain import BatchKind
from worker.arenas import Arena
from worker.attention.interface import AttentionBackend, AttentionShape
from worker.devices.capturer import Capturer
from worker.recorder import Recorder
from worker.sampling.picking import PickNoisy
from worker.shards.ops import Ops


class Fence(Protocol):
    """The end of what a window launched; for the thread that reads its outcome."""

    def wait(self) -> None:
        """Wait until the device has come here: what was fetched in the window may be read.

        Raises:
            GroupFailedError: The epoch was given up meanwhile.
        """
        ...

    def release(self) -> None:
        """Give back the memory of what was fetched."""
        ...


class Device(Protocol):
    """A processor, and the memory that batches have on it."""

    @property
    def name(self) -> str:
        """What it is, for people."""
        ...

    @property
    def torch_device(self) -> torch.device:
        """Where tensors go."""
        ...

    @property
    def runs_ahead(self) -> bool:
        """Whether launches return before the device has done with them."""
        ...

    @property
    def kv_fraction(self) -> float:
        """Share of its free memory that keys and values take by default."""
        ...

    @property
    def ops(self) -> Ops:
        """What shards compute with beside matrix products."""
        ...

    @property
    def pick(self) -> PickNoisy:
        """What draws from a shard of the vocabulary where nothing is filtered."""
        ...

    def bring(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        """Begin to copy numbers to the device, into memory that is the caller's to keep. A `Stage` of draws."""
        ...

    def enter(self) -> None:
        """Prepare the calling thread for launches; it is the launching thread."""
        ...

    def free_bytes(self) -> int:
        """Return the memory that may still be taken."""
        ...

    def attention(self, shape: AttentionShape) -> AttentionBackend:
        """Return how ranks attend there."""
        ...

    def arena(self, slot: int) -> Arena:
        """Return the memory of a slot."""
        ...

    def bucket(self, kind: BatchKind, num_tokens: int) -> int | None:
        """Return how many tokens a batch is padded to; None if it is not."""
        ...

    def new_recorder(self) -> Recorder:
        """Return what times an epoch's windows."""
        ...

    def new_capturer(self) -> Capturer | None:
        """Return what captures graphs of launches in an epoch; None where there are no graphs."""
        ...

    def begin_window(self) -> None:
        """Make room for what a window brings and takes."""
        ...

    def fetch(self, tensor: Tensor) -> Tensor:
        """Begin to copy to the host; it may be read behind the window's fence."""
        ...

    def end_window(self) -> Fence:
        """Return the end of all that was launched since `begin_window`."""
        ...

    def begin_epoch(self) -> None:
        """Begin to take windows of an epoch."""
        ...

    def give_up(self) -> None:
        """Let outcomes that are still to be read fail. May be called from another thread."""
        ...

    def leave(self) -> None:
        """Let go of the memory of all slots; nothing is under way."""
        ...
