"""Writes model.safetensors of a GGUF file's tensors, one at a time: memory holds one tensor, not the model."""

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from liger.models.conversion.container import GgufFile, Tensor
from liger.models.progress import Progress

_TOP: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_NAME: Final = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_DERIVED: Final = {"rope_freqs.weight"}  # told by rope_scaling in config.json


def folder_dtype(file: GgufFile) -> str:
    """Return the number format that holds every weight of the file exactly as llama.cpp computes with it.

    Files in float16 or bfloat16 stay so (their few float32 norms are what those formats hold or are kept in float32 by
    the file itself). A quantised weight is scale times code plus minimum, computed in float32: 16 bits would
    round it again.
    """
    matrices = {tensor.quantisation for tensor in file.tensors() if len(tensor.shape) > 1}
    return {frozenset({"F16"}): "float16", frozenset({"BF16"}): "bfloat16"}.get(frozenset(matrices), "float32")


def write_weights(file: GgufFile, config: Mapping[str, Any], target: Path, progress: Progress) -> None:
    """Write every weight under its Hugging Face name: F16 and BF16 tensors as they are, all others in float32.

    Raises:
        ModelFolderError: A tensor has no place in a Llama model, or is truncated.
    """
    tensors = list(file.tensors())
    names = {tensor.name: _hugging_face_name(file, tensor.name) for tensor in tensors if tensor.name not in _DERIVED}
    kept = [tensor for tensor in tensors if tensor.name in names]
    with target.open("wb") as stream:
        stream.write(_header(kept, names))
        for number, tensor in enumerate(kept):
            progress("converting weights", number / len(kept))
            stream.write(_exact(file, tensor, config).tobytes())
    progress("converting weights", 1.0)


def _hugging_face_name(file: GgufFile, name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    found = _LAYER_NAME.fullmatch(name)
    if found is None or found[2] not in _LAYER:
        raise file.refuse(f"holds a tensor {name}, which no Llama model has")
    return f"model.layers.{found[1]}.{_LAYER[found[2]]}.{found[3]}"


def _header(tensors: list[Tensor], names: Mapping[str, str]) -> bytes:
    """Return the safetensors header: its length, then names, formats, shapes and places, padded to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for tensor in tensors:
        kind = tensor.quantisation if tensor.quantisation in {"F16", "BF16"} else "F32"
        size = int(np.prod(tensor.shape)) * (4 if kind == "F32" else 2)
        entries[names[tensor.name]] = {"dtype": kind, "shape": tensor.shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _exact(file: GgufFile, tensor: Tensor, config: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return a tensor's values in the format that `_header` names, rows in Hugging Face's order."""
    values: npt.NDArray[Any]
    try:
        is_short = tensor.quantisation in {"F16", "BF16"}
        values = tensor.data.view(np.uint16).reshape(tensor.shape) if is_short else tensor.values()
    except (ValueError, NotImplementedError) as error:
        raise file.refuse(f"holds a tensor {tensor.name} that cannot be read ({error})") from error
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    found = _LAYER_NAME.fullmatch(tensor.name)
    if found is not None and found[2] in heads:
        return unpermute(values, int(config[heads[found[2]]]))
    return values


def unpermute(rows: npt.NDArray[Any], num_heads: int) -> npt.NDArray[Any]:
    """Undo llama.cpp's order of the rows of a query or key projection.

    Its rotation pairs neighbours (row 2i with 2i + 1 of a head), Hugging Face's pairs halves (row i with i + half).

    Args:
        rows: [num_heads * head_dim, ...].
        num_heads: Query heads, or key heads for the key projection.
    """
    paired = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(rows.shape)
