"""Makes models with random weights on the spot: an encoder (BERT) and a decoder (Llama), as Hugging Face folders."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

from bench.link.work import VOCABULARY_SIZE, Load

_HEAD_DIM: Final = 64
_NUM_POSITIONS: Final = 512
_STD: Final = 0.02
_Shapes = dict[str, tuple[int, ...]]


def make_model(load: Load, hidden: int, layers: int, root: Path) -> Path:
    """Make the model of a load below `root`, unless it is there, and return its folder. The same weights every time.

    Args:
        load: Discriminative takes an encoder, generative a decoder.
        hidden: Width, a multiple of 64.
        layers: How many.
        root: Where models are kept.
    """
    config, shapes = _encoder(hidden, layers) if load is Load.DISCRIMINATIVE else _decoder(hidden, layers)
    folder = root / f"{config['model_type']}-{hidden}x{layers}"
    if folder.exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        new = Path(temporary, "model")
        new.mkdir()
        save_file(_weights(shapes), new / "model.safetensors", metadata={"format": "pt"})
        (new / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        (new / "tokenizer.json").write_text(json.dumps(_tokenizer()), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    return folder


def _weights(shapes: _Shapes) -> dict[str, "np.ndarray[Any, np.dtype[np.float32]]"]:
    rng = np.random.default_rng(0)
    made = {}
    for name, shape in shapes.items():
        is_norm_weight = len(shape) == 1 and name.endswith("weight")
        made[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(_STD) + np.float32(is_norm_weight)
    return made


def _encoder(hidden: int, layers: int) -> tuple[dict[str, Any], _Shapes]:
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // _HEAD_DIM,
        "max_position_embeddings": _NUM_POSITIONS,
        "type_vocab_size": 2,
        "vocab_size": VOCABULARY_SIZE,
    }
    shapes: _Shapes = {
        "embeddings.word_embeddings.weight": (VOCABULARY_SIZE, hidden),
        "embeddings.position_embeddings.weight": (_NUM_POSITIONS, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        **_biased("embeddings.LayerNorm", hidden),
    }
    for layer in range(layers):
        start = f"encoder.layer.{layer}."
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= _biased(start + name, hidden, hidden)
        shapes |= _biased(start + "attention.output.LayerNorm", hidden)
        shapes |= _biased(start + "intermediate.dense", 4 * hidden, hidden)
        shapes |= _biased(start + "output.dense", hidden, 4 * hidden)
        shapes |= _biased(start + "output.LayerNorm", hidden)
    return config, shapes


def _decoder(hidden: int, layers: int) -> tuple[dict[str, Any], _Shapes]:
    ffn = -(-hidden * 8 // 3 // 256) * 256  # a gated MLP of about as many weights as a plain one of 4 × hidden
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // _HEAD_DIM,
        "num_key_value_heads": hidden // _HEAD_DIM,
        "max_position_embeddings": _NUM_POSITIONS,
        "vocab_size": VOCABULARY_SIZE,
    }
    shapes: _Shapes = {"model.embed_tokens.weight": (VOCABULARY_SIZE, hidden)}
    for layer in range(layers):
        start = f"model.layers.{layer}."
        shapes |= {f"{start}self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"{start}{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{start}mlp.{name}_proj.weight": (ffn, hidden) for name in ("gate", "up")}
        shapes[f"{start}mlp.down_proj.weight"] = (hidden, ffn)
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (VOCABULARY_SIZE, hidden)}
    return config, shapes


def _biased(name: str, num_outputs: int, *num_inputs: int) -> _Shapes:
    return {f"{name}.weight": (num_outputs, *num_inputs), f"{name}.bias": (num_outputs,)}


def _tokenizer() -> dict[str, Any]:
    """Return a tokenizer of whole words, w1 w2 …, with one for unknown ones."""
    vocabulary = {"[UNK]": 0, **{f"w{number}": number for number in range(1, VOCABULARY_SIZE)}}
    unknown = {"id": 0, "content": "[UNK]", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**unknown, **flags}],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
