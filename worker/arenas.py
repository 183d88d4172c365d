"""Where a slot's tensors lie: in memory of their own on the CPU, in fixed memory of the slot on a device.

Fixed, because a captured CUDA graph reads and writes the addresses that it was captured with: whatever lives from one
segment to the next, or comes from the host, must lie where it lay then.
"""

from collections.abc import Sequence
from math import prod
from typing import Final, Protocol

import torch
from torch import Tensor

from worker.staging import PageTurner

Values = Sequence[int] | Sequence[Sequence[int]] | Sequence[float] | Tensor
_LEAST_BYTES: Final = 1024  # of a buffer, so that small ones do not grow often


class Arena(Protocol):
    """One slot's memory."""

    @property
    def version(self) -> int:
        """Grows when memory was given anew: what was captured with the old may not be replayed."""
        ...

    def hold(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return memory of a shape, not written; the same for one name until a larger one is asked for."""
        ...

    def stage(self, name: str, values: Values, dtype: torch.dtype) -> Tensor:
        """Return values of the host in the memory of a name; they are there when the compute lane comes to it."""
        ...


class HeapArena:
    """Memory of its own for each tensor. Implements `Arena` for the CPU."""

    version = 0

    def hold(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return new memory."""
        del name
        return torch.empty(tuple(shape), dtype=dtype)

    def stage(self, name: str, values: Values, dtype: torch.dtype) -> Tensor:
        """Return a new tensor."""
        del name
        return values.to(dtype) if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)


class DeviceArena:
    """Fixed memory on a device, by name. Implements `Arena`.

    Args:
        device: Where.
        pages: Pinned memory that host values go through.
    """

    def __init__(self, device: torch.device, pages: PageTurner) -> None:
        self.version = 0
        self._device = device
        self._pages = pages
        self._buffers: dict[str, Tensor] = {}  # uint8

    def hold(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the memory of a name. Grown memory is zero, so that padding is harmless wherever it is read."""
        num_bytes = prod(shape) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < num_bytes:
            capacity = 1 << (max(num_bytes, _LEAST_BYTES) - 1).bit_length()
            buffer = torch.zeros(capacity, dtype=torch.uint8, device=self._device)
            self._buffers[name] = buffer
            self.version += 1
        return buffer[:num_bytes].view(dtype).view(tuple(shape))

    def stage(self, name: str, values: Values, dtype: torch.dtype) -> Tensor:
        """Copy values to the device in the order of the current stream."""
        host = self._pages.put(values, dtype)
        held = self.hold(name, host.shape, dtype)
        held.copy_(host, non_blocking=True)
        return held
