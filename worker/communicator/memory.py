"""What exchanges need to know of the activations they carry, and memory for them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeMemory:
    """The sizes of a rank's activations in an epoch."""

    num_slots: int
    max_tokens: int  # of one batch
    hidden_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def partial_bytes(self) -> int:
        """Bytes of the largest partial sums."""
        return self.max_tokens * self.hidden_size * self.dtype.itemsize


class PartialMemory:
    """The memory of each slot's places, allocated at first use and then the same each time, as graphs need.

    Args:
        sizes: Of activations.
    """

    def __init__(self, sizes: ExchangeMemory) -> None:
        self._sizes = sizes
        self._blocks: dict[tuple[int, int], Tensor] = {}

    def take(self, slot: int, place: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return the memory of a slot's place, [num_tokens, hidden]; narrower or shorter shapes share it."""
        sizes = self._sizes
        if shape[0] * shape[1] * dtype.itemsize > sizes.partial_bytes:  # a long input runs alone, in memory of its own
            return torch.empty(shape, dtype=dtype, device=sizes.device)
        block = self._blocks.get((slot, place))
        if block is None:
            with torch.inference_mode(mode=False):  # it is used in and out of that mode
                block = torch.empty(sizes.partial_bytes, dtype=torch.uint8, device=sizes.device)
            self._blocks[slot, place] = block
        return view_of(block, shape, dtype)


def view_of(block: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the beginning of a block of bytes as a tensor of a shape.

    Raises:
        ValueError: The block is too small.
    """
    num_bytes = shape[0] * shape[1] * dtype.itemsize
    if num_bytes > len(block):
        raise ValueError(
            f"partial sums of {num_bytes} bytes do not fit the {len(block)} bytes of their exchange memory"
        )
    return block[:num_bytes].view(dtype).view(shape)
