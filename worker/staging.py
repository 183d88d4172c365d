"""Pinned host memory between a rank's Python and its device: what goes in for a window, and what comes out of it.

Copies are asynchronous, so a page of memory may be written anew only when the device has done with it: pages are taken
when a window begins and given back when its outcome was read, so there are as many as windows under way.
"""

import queue
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

_CHUNK_BYTES: Final = 1 << 20
_ALIGNMENT: Final = 64  # bytes


class Page:
    """Pinned memory of one window, cut from large chunks.

    Args:
        pin: Whether the memory is pinned; for tests without a device, not.
    """

    def __init__(self, *, pin: bool = True) -> None:
        self._pin = pin
        self._chunks: list[Tensor] = []  # uint8
        self._chunk = 0  # where memory is cut from
        self._used = 0  # bytes of it

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return memory for a tensor, not written."""
        wanted = torch.Size(shape).numel() * dtype.itemsize
        while self._chunk < len(self._chunks) and self._used + wanted > len(self._chunks[self._chunk]):
            self._chunk, self._used = self._chunk + 1, 0
        if self._chunk == len(self._chunks):
            size = max(_CHUNK_BYTES, wanted)
            self._chunks.append(torch.empty(size, dtype=torch.uint8, pin_memory=self._pin))
        taken = self._chunks[self._chunk][self._used : self._used + wanted]
        self._used += -(-wanted // _ALIGNMENT) * _ALIGNMENT
        return taken.view(dtype).view(tuple(shape))

    def clear(self) -> None:
        """Forget what was taken."""
        self._chunk = self._used = 0


class PageTurner:
    """The pages of a rank. `turn`, `put` and `fetch` come from the launching thread, `give_back` from any.

    Args:
        pin: See `Page`.
    """

    def __init__(self, *, pin: bool = True) -> None:
        self._pin = pin
        self._free: queue.SimpleQueue[Page] = queue.SimpleQueue()
        self._page = Page(pin=pin)

    def turn(self) -> Page:
        """Begin a window: return its page, which is to be given back when the device has done with it."""
        try:
            self._page = self._free.get_nowait()
        except queue.Empty:
            self._page = Page(pin=self._pin)
        return self._page

    def give_back(self, page: Page) -> None:
        """Let another window have a page."""
        page.clear()
        self._free.put(page)

    def put(self, values: Any, dtype: torch.dtype) -> Tensor:
        """Return values in pinned memory."""
        given = values if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
        return self._page.take(given.shape, dtype).copy_(given)

    def fetch(self, tensor: Tensor) -> Tensor:
        """Begin to copy a tensor to pinned memory."""
        return self._page.take(tensor.shape, tensor.dtype).copy_(tensor, non_blocking=True)
