"""Each rank reads its own slices, whatever the files look like."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from liger.errors import ConfigError
from tests.support.lockstep import Lockstep
from tests.support.tiny_models import DECODERS, MakeModel, copy_model, make_model, token_ids
from worker.shards.folder import read_spec
from worker.shards.loading import load_shard

INPUTS = token_ids(9, 4)


def outputs(folder: Path, tp_size: int = 2) -> list[torch.Tensor]:
    return Lockstep(folder, tp_size).encode(INPUTS)


def assert_equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


def rename(folder: Path, old: str, new: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name.replace(old, new): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")


def test_weights_in_several_files_are_found_by_the_index(tiny_model: MakeModel, tmp_path: Path) -> None:
    make_model(tmp_path, *DECODERS["llama"], max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_equal(outputs(tmp_path), outputs(tiny_model("llama")[0]))


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("llama-base", "model."), ("gpt2-base", "transformer."), ("opt-350m-base", "model."), ("bert-base", "bert.")],
)
def test_names_are_found_with_and_without_the_familys_prefix(
    name: str, prefix: str, tiny_model: MakeModel, tmp_path: Path
) -> None:
    folder = copy_model(tiny_model(name)[0], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    assert not any(tensor.startswith(prefix) for tensor in tensors)
    save_file({prefix + tensor: value for tensor, value in tensors.items()}, folder / "model.safetensors")
    assert_equal(outputs(folder), outputs(tiny_model(name)[0]))


def test_opts_decoder_prefix_may_be_missing(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = copy_model(tiny_model("opt")[0], tmp_path)
    rename(folder, "model.decoder.", "")
    assert_equal(outputs(folder), outputs(tiny_model("opt")[0]))


def test_old_names_of_layer_norms_are_known(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = copy_model(tiny_model("bert-base")[0], tmp_path)
    rename(folder, "LayerNorm.weight", "LayerNorm.gamma")
    rename(folder, "LayerNorm.bias", "LayerNorm.beta")
    assert_equal(outputs(folder), outputs(tiny_model("bert-base")[0]))


def test_a_tied_head_needs_no_tensor_and_no_memory(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("gpt2")
    spec = read_spec(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    shard = load_shard(folder, spec, tp_rank=0, tp_size=1)
    assert shard.weight_bytes == sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize("name", ["llama", "qwen2", "opt", "gpt2", "bert-base"])
def test_ranks_hold_every_sliced_weight_once(name: str, tiny_model: MakeModel) -> None:
    folder, _ = tiny_model(name)
    spec = read_spec(folder)
    sizes = [load_shard(folder, spec, tp_rank=rank, tp_size=3).weight_bytes for rank in range(3)]
    whole = load_shard(folder, spec, tp_rank=0, tp_size=1).weight_bytes
    replicated = (sum(sizes) - whole) / 2
    assert 0 < replicated < min(sizes) < whole


def test_progress_grows_to_one(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")
    seen: list[float] = []
    load_shard(folder, read_spec(folder), tp_rank=1, tp_size=2, progress=seen.append)
    assert seen == sorted(set(seen))
    assert seen[-1] == 1.0
    assert len(seen) > 20


def test_vocabulary_rows_of_ranks_follow_one_another(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")
    spec = read_spec(folder)
    shards = [load_shard(folder, spec, tp_rank=rank, tp_size=4) for rank in range(4)]
    assert [(shard.vocab_start, shard.vocab_end) for shard in shards] == [(0, 33), (33, 66), (66, 99), (99, 131)]
    assert [shard.num_kv_heads for shard in shards] == [1, 1, 1, 1]


def test_more_ranks_than_heads_are_refused(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")
    with pytest.raises(ConfigError, match="9 heads splits over 1 to 9 ranks, not 10"):
        load_shard(folder, read_spec(folder), tp_rank=0, tp_size=10)


@pytest.mark.parametrize("name", ["llama", "opt-350m", "gpt2", "bert-base"])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_float_type_are_read(
    name: str, stored: torch.dtype, tiny_model: MakeModel, tmp_path: Path
) -> None:
    folder = copy_model(tiny_model(name)[0], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({key: tensor.to(stored) for key, tensor in tensors.items()}, folder / "model.safetensors")
    for one, other in zip(outputs(folder), outputs(tiny_model(name)[0]), strict=True):
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "opt-350m", "gpt2", "bert-base", "roberta-base"])
def test_bfloat16_stays_near_float32(name: str, tiny_model: MakeModel) -> None:
    folder, _ = tiny_model(name)
    rough = Lockstep(folder, 2, dtype=torch.bfloat16)
    for one, other in zip(rough.encode(INPUTS), outputs(folder), strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.nn.functional.cosine_similarity(one.float(), other, dim=-1).min() > 0.99
    if rough.spec.causal:
        assert len(rough.generate(INPUTS, 3, chunk=3)[0]) == 3
