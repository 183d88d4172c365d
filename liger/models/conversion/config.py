"""Makes config.json and generation_config.json of a GGUF file's metadata."""

from typing import Any

import numpy as np

from liger.models.conversion.container import GgufFile
from liger.models.conversion.weights import folder_dtype


def model_config(file: GgufFile) -> dict[str, Any]:
    """Return the config.json of a Llama model.

    Raises:
        ModelFolderError: It is of another architecture, or a mixture of experts.
    """
    architecture = file.need("general.architecture")
    if architecture != "llama":
        raise file.refuse(f"holds a {architecture} model, and only the llama architecture is converted")
    if file.get("llama.expert_count", 0):
        raise file.refuse("holds a mixture of experts, which is not converted")
    hidden_size, num_heads = int(file.need("llama.embedding_length")), int(_one(file, "llama.attention.head_count"))
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": int(_one(file, "llama.feed_forward_length")),
        "num_hidden_layers": int(file.need("llama.block_count")),
        "num_attention_heads": num_heads,
        "num_key_value_heads": int(_one(file, "llama.attention.head_count_kv", num_heads)),
        "head_dim": int(file.get("llama.attention.key_length", hidden_size // num_heads)),
        "max_position_embeddings": int(file.need("llama.context_length")),
        "rms_norm_eps": file.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": float(file.get("llama.rope.freq_base", 10_000.0)),
        "hidden_act": "silu",
        "attention_bias": file.tensor("blk.0.attn_q.bias") is not None,
        "mlp_bias": file.tensor("blk.0.ffn_up.bias") is not None,
        "tie_word_embeddings": file.tensor("output.weight") is None,
        "vocab_size": len(file.need("tokenizer.ggml.tokens")),
        "dtype": folder_dtype(file),
    }
    config["torch_dtype"] = config["dtype"]  # the name before transformers 5
    if (scaling := _rope_scaling(file, config)) is not None:
        config["rope_scaling"] = scaling
    return config | _token_ids(file)


def generation_config(file: GgufFile) -> dict[str, Any]:
    """Return the generation_config.json: which ids begin, end and pad; an end of turn ends too."""
    ids = _token_ids(file)
    ends = [ids["eos_token_id"], file.get("tokenizer.ggml.eot_token_id")] if "eos_token_id" in ids else []
    unique = list(dict.fromkeys(int(end) for end in ends if end is not None))
    return ids | ({"eos_token_id": unique[0] if len(unique) == 1 else unique} if unique else {})


def _token_ids(file: GgufFile) -> dict[str, int]:
    names = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    found = {name: file.get(f"tokenizer.ggml.{key}") for name, key in names.items()}
    return {name: int(value) for name, value in found.items() if value is not None}


def _one(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.need(key) if default is None else file.get(key, default)
    values = set(value) if isinstance(value, list) else {value}
    if len(values) != 1:
        raise file.refuse(f"has layers of different {key}, which are not converted")
    return int(values.pop())


def _rope_scaling(file: GgufFile, config: dict[str, Any]) -> dict[str, Any] | None:
    if (factors := file.tensor("rope_freqs.weight")) is not None:
        return _llama3_scaling(file, factors.values(), config)
    kind = file.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in {"linear", "yarn"}:
        raise file.refuse(f"scales positions by {kind}, which is not converted")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": float(file.need("llama.rope.scaling.factor"))}
    if kind == "yarn":
        length = file.get("llama.rope.scaling.original_context_length", config["max_position_embeddings"])
        scaling["original_max_position_embeddings"] = int(length)
    return scaling


def _llama3_scaling(file: GgufFile, factors: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Find the parameters behind Llama 3's table of factors, and check that they give the table again.

    Source: Llama 3.1's rope scaling; all released models use low 1, high 4 and 8,192 original positions.
    """
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    inverse = config["rope_theta"] ** (-np.arange(0, config["head_dim"], 2) / config["head_dim"])
    smooth = np.clip((8192 * inverse / (2 * np.pi) - 1.0) / 3.0, 0.0, 1.0)
    expected = 1.0 / ((1.0 - smooth) / scaling["factor"] + smooth)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-3):
        raise file.refuse("scales positions by a table of its own (rope_freqs), which is not converted")
    return scaling
