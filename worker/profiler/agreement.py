"""What ranks that measure together tell one another."""

from collections.abc import Sequence
from typing import Final

import torch

from worker.communicator.base import Communicator

_TEXT_BYTES: Final = 512  # longer texts are cut


class Agreement:
    """Makes what ranks know the same on all of them; each call is an exchange in which all ranks take part.

    Args:
        communicator: Of the hosts of the ranks that measure together: it takes tensors of the CPU.
    """

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator

    def meet(self) -> None:
        """Wait until all ranks are here."""
        self._communicator.all_reduce(torch.zeros(1)).wait()

    def slowest(self, values: Sequence[int]) -> tuple[int, ...]:
        """Return the largest of all ranks' values, place by place."""
        parts = self._communicator.all_gather(torch.tensor(values, dtype=torch.int64)).wait()
        largest: list[int] = torch.stack(parts).amax(0).tolist()
        return tuple(largest)

    def fewest(self, value: int) -> int:
        """Return the smallest of all ranks' values."""
        return -self.slowest((-value,))[0]

    def are_equal(self, value: int) -> bool:
        """Tell whether all ranks have the same value."""
        return self.slowest((value, -value)) == (value, -value)

    def texts(self, text: str) -> tuple[str, ...]:
        """Return all ranks' texts, in rank order."""
        part = torch.zeros(_TEXT_BYTES, dtype=torch.uint8)
        content = text.encode()[:_TEXT_BYTES]
        part[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        parts = self._communicator.all_gather(part).wait()
        return tuple(bytes(part.tolist()).rstrip(b"\0").decode(errors="replace") for part in parts)
