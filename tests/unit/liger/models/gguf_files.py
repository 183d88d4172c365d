"""Writes small GGUF files of Llama models, with query and key rows in llama.cpp's order."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    if name in NAMES or not name.startswith("model."):
        return NAMES.get(name, name)
    _, _, layer, *middle, kind = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(middle)]}.{kind}"


def permuted(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """llama.cpp's order: its converter's own formula, the inverse of what is tested."""
    return (
        rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
    )


def write_gguf(
    file: Path,
    *,
    tensors: Mapping[str, np.ndarray] | None = None,
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    architecture: str = "llama",
    tokens: Sequence[str] = ("<unk>", "a", "b", "ab"),
    merges: Sequence[str] = ("a b",),
    pre: str = "smollm",
    rope_base: float = 10_000.0,
    extra: Mapping[str, Any] | None = None,
    kinds: Sequence[int] | None = None,
) -> Path:
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(rope_base)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(kinds or [3] + [1] * (len(tokens) - 1)))
    writer.add_token_merges(list(merges))
    writer.add_eos_token_id(0)
    for key, value in (extra or {}).items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for name, values in (tensors or {}).items():
        rows = {"q_proj": num_heads, "k_proj": num_kv_heads}.get(name.rsplit(".", 2)[-2] if "." in name else "")
        ordered = permuted(values, rows) if rows else values
        kind = quantisation if ordered.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quantize(ordered, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
