"""Brings weights to a CUDA device: while one pinned buffer is copied there, the other is filled from the file."""

from itertools import cycle
from typing import Final

import torch
from torch import Tensor

_BUFFER_BYTES: Final = 32 << 20


class Uploads:
    """Copies to one device, in the order of its current stream.

    Args:
        device: A CUDA device.
        buffer_bytes: Of each of the two pinned buffers; at least a row of every tensor.
    """

    def __init__(self, device: torch.device, buffer_bytes: int = _BUFFER_BYTES) -> None:
        self._device = device
        self._buffer_bytes = buffer_bytes
        self._stream = torch.cuda.current_stream(device)
        self._buffers = cycle([_Buffer(buffer_bytes), _Buffer(buffer_bytes)])

    def put(self, part: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a copy on the device, without gaps, in the given type; it may still be on its way."""
        with torch.cuda.stream(self._stream):
            held = torch.empty(part.shape, dtype=dtype, device=self._device)
            num_rows = max(1, self._buffer_bytes // max(1, held[:1].nbytes))
            for start in range(0, len(part), num_rows):
                next(self._buffers).copy(part[start : start + num_rows], held[start : start + num_rows])
        return held

    def finish(self) -> None:
        """Wait until all that was put is there, so that every stream may read it."""
        self._stream.synchronize()


class _Buffer:
    def __init__(self, num_bytes: int) -> None:
        self._memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        self._is_free = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def copy(self, source: Tensor, target: Tensor) -> None:
        self._is_free.synchronize()
        staged = self._memory[: target.nbytes].view(target.dtype).view(target.shape)
        target.copy_(staged.copy_(source), non_blocking=True)
        self._is_free.record()
