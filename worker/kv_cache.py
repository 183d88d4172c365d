"""The keys and values of running sequences, in blocks of token slots."""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.shards.spec import ModelSpec


def bytes_per_block(
    spec: ModelSpec, num_kv_heads: int, dtype: torch.dtype, *, block_size: int, num_layers: int | None = None
) -> int:
    """Return the memory of one block over `num_layers` layers (all of the model's by default) of one rank."""
    layers = spec.num_layers if num_layers is None else num_layers
    return 2 * layers * block_size * num_kv_heads * spec.head_dim * dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCache:
    """A rank's keys and values.

    A token's place is a slot: block * block_size + its offset in the block. What was never written is 0, so that
    padding is harmless wherever it points. One block more than `num_blocks`, the scratch block, may be there for the
    writes of padding; no sequence holds it.
    """

    layers: range  # which layers of the model
    num_blocks: int  # the scratch block not counted
    block_size: int  # tokens of a block
    keys: tuple[Tensor, ...]  # by layer held: [num_blocks, block_size, kv_heads, head_dim], or one block more
    values: tuple[Tensor, ...]  # likewise
    scratch_block: int | None = None  # number of the block that padding writes to

    @classmethod
    def allocate(
        cls,
        *,
        layers: range,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        has_scratch: bool = False,
    ) -> "KvCache":
        """Allocate an empty cache for the key-value heads of one rank, with a scratch block if padding will need it."""
        shape = (num_blocks + has_scratch, block_size, num_kv_heads, head_dim)
        keys = tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in layers)
        values = tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in layers)
        return cls(
            layers=layers,
            num_blocks=num_blocks,
            block_size=block_size,
            keys=keys,
            values=values,
            scratch_block=num_blocks if has_scratch else None,
        )

    def slots(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values by slot, each [blocks * block_size, kv_heads, head_dim]; no copy."""
        place = layer - self.layers.start
        return self.keys[place].flatten(0, 1), self.values[place].flatten(0, 1)

    def blocks(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values by block, each [blocks, block_size, kv_heads, head_dim]; no copy."""
        place = layer - self.layers.start
        return self.keys[place], self.values[place]

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy blocks, [n] int64 on the cache's device, in all layers held; no target is a source too."""
        for tensor in (*self.keys, *self.values):
            tensor.index_copy_(0, targets, tensor.index_select(0, sources))

    @property
    def num_bytes(self) -> int:
        """Return the memory of the whole cache, its scratch block included."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))
