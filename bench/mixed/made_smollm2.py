"""A model of SmolLM2-135M's exact shape with random weights, for machines to which the real one cannot be brought.

It takes as long to run; what it says means nothing. It has no tokenizer, so clients send token ids.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

NAME: Final = "made-smollm2"
VOCABULARY_SIZE: Final = 49_152

_HIDDEN: Final = 576
_FFN: Final = 1536
_LAYERS: Final = 30
_HEADS: Final = 9
_KV_HEADS: Final = 3
_HEAD_DIM: Final = 64
_STD: Final = 0.04
_CONFIG: Final[dict[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": _HIDDEN,
    "intermediate_size": _FFN,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _KV_HEADS,
    "head_dim": _HEAD_DIM,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "vocab_size": VOCABULARY_SIZE,
    "dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def make_smollm2(root: Path) -> Path:
    """Make the model below `root`, unless it is there, and return its folder: 0.5 GB, the same every time."""
    folder = root / NAME
    if folder.exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        new = Path(temporary, "model")
        new.mkdir()
        save_file(_weights(), new / "model.safetensors", metadata={"format": "pt"})
        (new / "config.json").write_text(json.dumps(_CONFIG, indent=1), encoding="utf-8")
        new.rename(folder)
    return folder


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of each of its weights, by name."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY_SIZE, _HIDDEN)}
    for layer in range(_LAYERS):
        start = f"model.layers.{layer}."
        found |= {f"{start}{name}.weight": (_HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")}
        found |= {f"{start}self_attn.{name}_proj.weight": (_HEADS * _HEAD_DIM, _HIDDEN) for name in "qo"}
        found |= {f"{start}self_attn.{name}_proj.weight": (_KV_HEADS * _HEAD_DIM, _HIDDEN) for name in "kv"}
        found |= {f"{start}mlp.{name}_proj.weight": (_FFN, _HIDDEN) for name in ("gate", "up")}
        found[f"{start}mlp.down_proj.weight"] = (_HIDDEN, _FFN)
    return found | {"model.norm.weight": (_HIDDEN,)}  # the head is the embeddings


def _weights() -> dict[str, "np.ndarray[Any, np.dtype[np.float32]]"]:
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape, dtype=np.float32) * np.float32(_STD) + np.float32(len(shape) == 1)
        for name, shape in shapes().items()
    }
