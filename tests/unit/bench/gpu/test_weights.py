import json

import pytest
import torch
from safetensors.torch import load_file

from bench.gpu import made_folder
from bench.gpu.data_plane import token_ids
from bench.gpu.plain_llama import PlainLlama, relative_error
from bench.gpu.shapes import SHAPES, input_lengths, model_config
from bench.gpu.weights import MadeSlices, make_shard
from worker.shards.folder import read_spec

FLOAT = torch.float32


def slices(dtype=FLOAT, stored=FLOAT, seed=0) -> MadeSlices:
    return MadeSlices(stored=stored, given=dtype, device="cpu", seed=seed)


def test_parts_are_of_one_whole_whatever_the_split():
    whole = slices().take("layers.0.mlp.up_proj.weight", (8, 6), (slice(None), slice(None)))
    part = slices().take("layers.0.mlp.up_proj.weight", (8, 6), (slice(2, 4), slice(1, 5)))
    assert torch.equal(part, whole[2:4, 1:5])
    assert part.is_contiguous()


def test_tensors_differ_by_name_and_seed():
    taken = [
        slices(seed=seed).take(name, (4, 4), (slice(None), slice(None)))
        for name, seed in (("a.weight", 0), ("b.weight", 0), ("a.weight", 1))
    ]
    assert not torch.equal(taken[0], taken[1])
    assert not torch.equal(taken[0], taken[2])


def test_the_reference_has_the_rounded_numbers_that_are_served():
    served = slices(dtype=torch.bfloat16, stored=torch.bfloat16).take("a.weight", (4, 4), (slice(None), slice(None)))
    reference = slices(dtype=FLOAT, stored=torch.bfloat16).take("a.weight", (4, 4), (slice(None), slice(None)))
    assert reference.dtype == FLOAT
    assert torch.equal(served.to(FLOAT), reference)


def test_the_reference_stays_finite_and_depends_on_every_token():
    model = PlainLlama(SHAPES["tiny"], 2, slices(), "cpu")
    ids = list(token_ids(24))
    states = model.last_states(ids, (16, 8))
    changed = model.last_states([ids[0] + 1, *ids[1:]], (16, 8))
    assert states.shape == (2, SHAPES["tiny"].hidden)
    assert torch.isfinite(states).all()
    assert relative_error(changed[0], states[0]) > 1e-4
    assert torch.equal(changed[1], states[1])  # another input


def test_an_error_that_is_no_number_is_infinite():
    assert relative_error(torch.tensor([float("nan"), 1.0]), torch.ones(2)) == float("inf")
    assert relative_error(torch.tensor([1.0, 1.1]), torch.ones(2)) == pytest.approx(0.1 / 2**0.5, rel=1e-3)


def test_a_made_folder_holds_the_weights_that_ranks_make(tmp_path):
    words = [str(tmp_path), "tiny", "2", "128", "bfloat16", "cpu", "3"]
    assert made_folder.main(words) == 0
    spec = read_spec(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    name, shape = "layers.1.mlp.down_proj.weight", (SHAPES["tiny"].hidden, SHAPES["tiny"].ffn)
    made = slices(torch.bfloat16, torch.bfloat16, seed=3).take(name, shape, (slice(None), slice(None)))
    assert torch.equal(stored[f"model.{name}"], made)
    assert "lm_head.weight" in stored
    shard = make_shard(spec, tp_rank=1, tp_size=2, layers=range(2), dtype=FLOAT, device="cpu")
    assert shard.num_heads == SHAPES["tiny"].heads // 2


def test_the_config_is_that_of_a_served_llama(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(model_config(SHAPES["8b"], 4, 4096)), encoding="utf-8")
    spec = read_spec(tmp_path)
    assert (spec.hidden_size, spec.num_layers, spec.head_dim) == (4096, 4, 128)


@pytest.mark.parametrize(("num_tokens", "lengths"), [(128, (128,)), (512, (256, 256)), (300, (256, 44))])
def test_batches_are_of_inputs_of_256_tokens(num_tokens, lengths):
    assert input_lengths(num_tokens) == lengths


def test_an_8b_fits_where_a_70b_does_not():
    gib = 1 << 30
    assert SHAPES["8b"].real_bytes < 20 * gib < 100 * gib < SHAPES["70b"].real_bytes
