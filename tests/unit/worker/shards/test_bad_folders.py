"""Folders that cannot be served are refused with what is wrong and what mends it, before any weight is read."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from liger.errors import ModelFolderError
from tests.support.tiny_models import MakeModel, copy_model, rewrite_config
from worker.shards.folder import fingerprint, read_spec
from worker.shards.loading import load_shard


@pytest.fixture
def folder(tiny_model: MakeModel, tmp_path: Path) -> Path:
    return copy_model(tiny_model("llama")[0], tmp_path)


def load(folder: Path) -> None:
    load_shard(folder, read_spec(folder), tp_rank=0, tp_size=2)


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def split_weights(folder: Path) -> None:
    """Cut the weights into two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in files.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"architectures": None}, "lacks architectures"),
        ({"architectures": []}, "architectures"),
        ({"architectures": "LlamaForCausalLM"}, "must be a list of strings"),
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM, which is not served; those served: LlamaModel"),
        ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 8}, "mixture of experts .* choose a dense"),
        ({"num_experts": 64}, "num_experts is 64"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised, .* float weights"),
        ({"hidden_size": None}, "lacks hidden_size, .* take it|lacks hidden_size"),
        ({"hidden_size": "36"}, 'hidden_size in .* is "36", but it must be a whole number'),
        ({"hidden_size": 36.5}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers in .* is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_attention_heads": -9}, "num_attention_heads"),
        ({"num_key_value_heads": 2}, "9 query heads and 2 key-value heads"),
        ({"head_dim": 5}, "odd width of 5"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps"),
        ({"hidden_act": "relu6"}, "must be one of silu"),
        ({"hidden_act": 3}, "must be a string"),
        ({"attention_bias": "yes"}, "must be true or false"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"eos_token_id": [2, -1]}, "eos_token_id"),
    ],
)
def test_settings_that_cannot_be_served_are_refused(changes: dict[str, Any], complaint: str, folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    rewrite_config(folder, **changes)
    with pytest.raises(ModelFolderError, match=complaint):
        read_spec(folder)


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("bert-base", {"is_decoder": True}, "is_decoder"),
        ("bert-base", {"add_cross_attention": True}, "add_cross_attention"),
        ("bert-base", {"position_embedding_type": "relative_key"}, "must be absolute"),
        ("bert-base", {"num_attention_heads": 5}, "multiple of the 5 heads"),
        ("roberta-base", {"max_position_embeddings": 2}, "above 2"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("opt", {"num_attention_heads": 7}, "multiple of the 7 heads"),
    ],
)
def test_habits_of_a_family_that_are_not_served_are_refused(
    name: str, changes: dict[str, Any], complaint: str, tiny_model: MakeModel, tmp_path: Path
) -> None:
    folder = copy_model(tiny_model(name)[0], tmp_path, **changes)
    with pytest.raises(ModelFolderError, match=complaint):
        read_spec(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"config\.json is missing: .*liger models pull"):
        read_spec(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_config_that_is_not_json_is_refused(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelFolderError, match="damaged, bring it again"):
        read_spec(folder)


def test_a_config_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelFolderError, match=r"cannot read .* permissions"):
        read_spec(tmp_path)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"neither model\.safetensors nor .*liger models pull"):
        load(folder)


def test_a_folder_with_pickled_weights_is_told_to_convert_them(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match=r"it has pytorch_model\.bin.*convert its weights to safetensors"):
        load(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights_are_refused(kept: int, folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(ModelFolderError, match=r"truncated|no whole safetensors file"):
        load(folder)
    with pytest.raises(ModelFolderError, match=r"truncated|no whole safetensors file"):
        fingerprint(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}',
    ],
)
def test_damaged_headers_are_refused(header: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(ModelFolderError, match="no whole safetensors file"):
        load(folder)


def test_a_header_that_claims_more_than_the_file_is_refused_without_reading_it(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + bytes(16))
    with pytest.raises(ModelFolderError, match="no whole safetensors file"):
        load(folder)


def test_a_missing_shard_of_the_weights_is_named(folder: Path) -> None:
    split_weights(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"model-00002-of-00002\.safetensors is missing: .*incomplete"):
        load(folder)


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_refused(content: str, folder: Path) -> None:
    split_weights(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelFolderError, match="damaged, bring it again"):
        load(folder)


def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path) -> None:
    split_weights(folder)
    index = {"weight_map": {"model.embed_tokens.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFolderError, match="outside the folder"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.weight", "model.norm.weight", "lm_head.weight"],
)
def test_a_missing_tensor_is_named(name: str, folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelFolderError, match=f"no tensor .*{name}.*, which config.json asks for"):
        load(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(35)}))
    with pytest.raises(ModelFolderError, match=r"model\.norm\.weight .* shape \[35\], but .* asks for \[36\]"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_tensors_are_refused(dtype: torch.dtype, folder: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(folder, lambda tensors: tensors.update({name: torch.zeros(67, 36).to(dtype)}))
    with pytest.raises(ModelFolderError, match=f"{name} .* is of type .*, which is not served"):
        load(folder)


def test_nothing_is_read_before_all_is_checked(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    seen: list[float] = []
    with pytest.raises(ModelFolderError):
        load_shard(folder, read_spec(folder), tp_rank=0, tp_size=1, progress=seen.append)
    assert seen == []
