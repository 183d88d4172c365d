"""Writes a made model to disk: `python -m bench.gpu.made_folder FOLDER SHAPE LAYERS MAX_LENGTH DTYPE DEVICE SEED`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.gpu.shapes import SHAPES, model_config
from bench.gpu.weights import MadeSlices
from worker.shards.assembly import assemble
from worker.shards.families.registry import ARCHITECTURES
from worker.shards.folder import read_spec
from worker.shards.partition import partition
from worker.shards.slices import Index

_HEAD = "lm_head"


class KeptSlices:
    """Keeps all whole tensors that are taken, on the CPU. Implements `Slices`."""

    def __init__(self, slices: MadeSlices) -> None:
        self._slices = slices
        self.kept: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], index: Index) -> Tensor:
        """Keep the whole and return a part."""
        whole = self._slices.take(name, shape, (slice(None),) * len(shape)).cpu()
        self.kept[name if name.startswith(_HEAD) else f"model.{name}"] = whole
        return torch.empty(whole[index].shape, device="meta")


def main(argv: Sequence[str]) -> int:
    """Write what the command line says."""
    folder, shape, layers, max_length, dtype, device, seed = argv
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    config = model_config(SHAPES[shape], int(layers), int(max_length))
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    spec = read_spec(path)
    stored = getattr(torch, dtype)
    kept = KeptSlices(MadeSlices(stored=stored, given=stored, device=device, seed=int(seed)))
    whole = partition(
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        ffn_size=spec.ffn_size,
        vocab_size=spec.vocab_size,
        tp_rank=0,
        tp_size=1,
    )
    assemble(spec, ARCHITECTURES[spec.architecture].family.names, whole, range(spec.num_layers), kept)
    save_file(kept.kept, path / "model.safetensors", metadata={"format": "pt"})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
