"""Loads a rank's slice of a model from its folder."""

from collections.abc import Callable
from pathlib import Path

import torch

from worker.shards.assembly import assemble
from worker.shards.checkpoint import open_checkpoint
from worker.shards.families.registry import ARCHITECTURES
from worker.shards.ops import Ops
from worker.shards.partition import Partition, partition
from worker.shards.rotary import build_rotary
from worker.shards.shard import Shard
from worker.shards.slices import CheckedSlices, HeldSlices, ReadSlices
from worker.shards.spec import ModelSpec


def load_shard(
    folder: Path,
    spec: ModelSpec,
    *,
    tp_rank: int,
    tp_size: int,
    layers: range | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
    ops: Ops | None = None,
) -> Shard:
    """Load what rank `tp_rank` of `tp_size` holds of a model; all of it is checked before anything is read.

    Args:
        folder: A Hugging Face folder.
        spec: What `read_spec` read there.
        tp_rank: This rank, from 0.
        tp_size: Ranks that share each layer.
        layers: Which layers to hold; None for all. Layer 0 brings the embeddings, the last one the head.
        dtype: Type of the weights in memory.
        device: Where they are put.
        progress: Is told the share of the bytes read, 0 to 1, tensor by tensor.
        ops: How the shard computes on that device; None for torch's own functions.

    Raises:
        ModelFolderError: Weights are missing, truncated, quantised or do not fit the config.
        ConfigError: The model does not split over so many ranks.
    """
    part = partition_of(spec, tp_rank, tp_size)
    names = ARCHITECTURES[spec.architecture].family.names
    held = layers if layers is not None else range(spec.num_layers)
    checked = CheckedSlices(open_checkpoint(folder), names.prefixes, f"{names.word_embedding}.weight")
    assemble(spec, names, part, held, checked)
    with ReadSlices(checked, dtype=dtype, device=device, progress=progress) as slices:
        return build_shard(spec, part, held, slices, dtype=dtype, device=device, ops=ops)


def build_shard(
    spec: ModelSpec,
    part: Partition,
    layers: range,
    slices: HeldSlices,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    ops: Ops | None,
) -> Shard:
    """Return a shard of slices that are right; see `load_shard` for the rest."""
    weights = assemble(spec, ARCHITECTURES[spec.architecture].family.names, part, layers, slices)
    return Shard(
        spec=spec,
        partition=part,
        layers=layers,
        weights=weights,
        rotary=build_rotary(spec.rope, spec.head_dim, dtype, device) if spec.rope else None,
        weight_bytes=slices.held_bytes,
        ops=ops,
    )


def partition_of(spec: ModelSpec, tp_rank: int, tp_size: int) -> Partition:
    """Return what rank `tp_rank` of `tp_size` holds of each layer.

    Raises:
        ConfigError: The model does not split over so many ranks.
    """
    return partition(
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        ffn_size=spec.ffn_size,
        vocab_size=spec.vocab_size,
        tp_rank=tp_rank,
        tp_size=tp_size,
    )
