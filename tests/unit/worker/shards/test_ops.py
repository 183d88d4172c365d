"""A shard computes the same values wherever it is told to put them."""

import pytest
import torch

from tests.support.shard_steps import ShardSteps
from tests.support.tiny_models import MakeModel, token_ids
from worker.shards.linear import DenseLinear
from worker.shards.norm import Norm
from worker.shards.ops import TorchOps
from worker.shards.spec import ActivationKind, NormKind

INPUTS = token_ids(9, 5, 1)
MODELS = ["llama", "llama-biased-tied", "qwen2", "qwen3", "opt", "opt-350m", "gpt2", "bert-base", "roberta-base"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_values_in_given_memory_are_the_same(name: str, dtype: torch.dtype, tiny_model: MakeModel) -> None:
    folder, _ = tiny_model(name)
    ranks = ShardSteps(folder, 2, dtype=dtype)
    want, got = (ranks.forward(INPUTS, is_fixed=is_fixed) for is_fixed in (False, True))
    if dtype == torch.float32:
        torch.testing.assert_close(got, want, rtol=0, atol=2e-6)  # pieces of an MLP are other products
    else:
        assert torch.nn.functional.cosine_similarity(got.float(), want.float(), dim=-1).min() > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("by_columns", [True, False])
@pytest.mark.parametrize("num_tokens", [1, 2, 37, 130])
def test_a_projection_gives_the_same_bytes_in_given_memory(
    num_tokens: int, by_columns: bool, has_bias: bool, dtype: torch.dtype
) -> None:
    weight = torch.randn(67, 36).to(dtype)
    linear = DenseLinear(
        weight.t().contiguous().t() if by_columns else weight, torch.randn(67, dtype=dtype) if has_bias else None
    )
    hidden, out = torch.randn(num_tokens, 36).to(dtype), torch.full((num_tokens, 67), torch.nan, dtype=dtype)
    assert linear(hidden, out).data_ptr() == out.data_ptr()
    assert torch.equal(out, linear(hidden))


@pytest.mark.parametrize("name", ["bert-base", "opt-350m"])
def test_the_residual_keeps_its_place_where_norms_come_last(name: str, tiny_model: MakeModel) -> None:
    folder, _ = tiny_model(name)
    kept = ShardSteps(folder, 2, ops=TorchOps(keeps_place=True))
    assert torch.equal(kept.forward(INPUTS, is_fixed=False), ShardSteps(folder, 2).forward(INPUTS, is_fixed=False))
    shard, memory = kept.shards[0], torch.empty(3, kept.spec.hidden_size)
    with torch.inference_mode():
        act = shard.embed(torch.tensor([5, 6, 7]), torch.arange(3), residual=memory)
        for layer in shard.layers:
            hidden = shard.mlp_input(layer, act)
            act.addends = (torch.ones_like(hidden),)
            assert act.residual.data_ptr() == memory.data_ptr()
        shard.finish(act)
        assert act.residual.data_ptr() == memory.data_ptr()


@pytest.mark.parametrize("norm_last", [True, False])
@pytest.mark.parametrize("keeps_place", [True, False])
def test_the_normed_sum_may_have_memory_of_its_own(keeps_place: bool, norm_last: bool) -> None:
    residual, addends, bias = torch.randn(3, 8), torch.randn(2, 3, 8), torch.randn(8)
    norm, out = Norm(NormKind.RMS, 1e-5, torch.randn(8)), torch.full((3, 8), torch.nan)
    total = residual + addends[0] + addends[1] + bias
    new, normed = TorchOps(keeps_place=keeps_place).add_norm(
        residual, list(addends), bias, norm, norm_last=norm_last, out=out
    )
    assert normed.data_ptr() == out.data_ptr()
    assert torch.equal(out, norm(total))
    assert torch.equal(new, norm(total) if norm_last else total)


def test_a_gate_opens_the_second_half_by_the_first() -> None:
    hidden = torch.tensor([[-1.0, 2.0, 3.0, 5.0]])
    assert torch.equal(TorchOps().gate(hidden, ActivationKind.RELU), torch.tensor([[0.0, 10.0]]))


def test_a_stage_may_begin_in_given_memory(tiny_model: MakeModel) -> None:
    shard = ShardSteps(tiny_model("llama")[0], 1).shards[0]
    arrived, memory = torch.randn(4, 36), torch.full((4, 36), torch.nan)
    rotation = shard.allocate_rotation(4)
    act = shard.resume(arrived, torch.arange(4), residual=memory, rotation=rotation)
    own = shard.resume(arrived, torch.arange(4))
    assert act.residual.data_ptr() == memory.data_ptr()
    assert own.residual.data_ptr() == arrived.data_ptr()
    assert torch.equal(memory, arrived)
    assert act.rotation is rotation
    assert own.rotation is not None
    assert rotation is not None
    assert torch.equal(rotation.cosines, own.rotation.cosines)
    assert torch.equal(rotation.sines, own.rotation.sines)
