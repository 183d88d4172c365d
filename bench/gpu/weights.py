"""Made weights: drawn on the device by each tensor's name, the same on every rank however the model is split."""

from zlib import crc32

import torch
from torch import Tensor

from worker.shards.loading import build_shard, partition_of
from worker.shards.ops import Ops
from worker.shards.shard import Shard
from worker.shards.slices import Index
from worker.shards.spec import ModelSpec


class MadeSlices:
    """Gives parts of drawn tensors. Implements `Slices`.

    A tensor is drawn whole, in the type in which models are served, so that every split and the float32 reference have
    the same numbers. Matrices are scaled by their inputs: activations keep their size from layer to layer.

    Args:
        stored: Type in which tensors are drawn.
        given: Type in which parts are given.
        device: Where.
        seed: Names the draw.
    """

    def __init__(self, *, stored: torch.dtype, given: torch.dtype, device: torch.device | str, seed: int = 0) -> None:
        self._stored = stored
        self._given = given
        self._device = torch.device(device)
        self._seed = seed
        self.held_bytes = 0

    def take(self, name: str, shape: tuple[int, ...], index: Index) -> Tensor:
        """Return a part, in memory of its own."""
        part = self._draw(name, shape)[index]
        held = part.to(self._given, copy=True, memory_format=torch.contiguous_format)
        self.held_bytes += held.nbytes
        return held

    def _draw(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            return torch.ones(shape, dtype=self._stored, device=self._device)
        generator = torch.Generator(self._device).manual_seed(crc32(f"{self._seed} {name}".encode()))
        drawn = torch.randn(shape, generator=generator, dtype=self._stored, device=self._device)
        return drawn if "embed" in name else drawn.mul_(shape[-1] ** -0.5)


def make_shard(  # noqa: D417 - the rest is told by its names
    spec: ModelSpec,
    *,
    tp_rank: int,
    tp_size: int,
    layers: range,
    dtype: torch.dtype,
    device: torch.device | str,
    seed: int = 0,
    ops: Ops | None = None,
) -> Shard:
    """Make what rank `tp_rank` of `tp_size` holds of a made model, as `load_shard` does of one on disk.

    Args:
        spec: The model.
        layers: Which layers to hold.
    """
    slices = MadeSlices(stored=dtype, given=dtype, device=device, seed=seed)
    part = partition_of(spec, tp_rank, tp_size)
    return build_shard(spec, part, layers, slices, dtype=dtype, device=device, ops=ops)
