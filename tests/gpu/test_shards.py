"""Whole shards on the device give what they give on the CPU."""

import pytest
import torch

from tests.support.shard_steps import ShardSteps
from tests.support.tiny_models import MakeModel, token_ids
from worker.shards.ops import TorchOps
from worker.shards.uploads import Uploads

INPUTS = token_ids(17, 5, 20, 5, 1)
MODELS = ["llama", "llama-biased-tied", "qwen2", "qwen3", "opt", "opt-350m", "gpt2", "bert-base", "roberta-base"]


@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("tp_size", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_equal_those_of_the_cpu(name: str, tp_size: int, tiny_model: MakeModel) -> None:
    from worker.kernels.ops import TritonOps

    folder, _ = tiny_model(name)
    want = ShardSteps(folder, tp_size).forward(INPUTS, is_fixed=False)
    for ops in (TritonOps(), TorchOps(keeps_place=True)):
        ranks = ShardSteps(folder, tp_size, ops=ops, device="cuda")
        for is_fixed in (False, True):
            got = ranks.forward(INPUTS, is_fixed=is_fixed)
            torch.testing.assert_close(got.cpu(), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_short_types_stay_near_float32(name: str, dtype: torch.dtype, tiny_model: MakeModel) -> None:
    from worker.kernels.ops import TritonOps

    folder, _ = tiny_model(name)
    want = ShardSteps(folder, 2).forward(INPUTS, is_fixed=False)
    got = ShardSteps(folder, 2, ops=TritonOps(), device="cuda", dtype=dtype).forward(INPUTS, is_fixed=True)
    assert got.dtype == dtype
    assert torch.nn.functional.cosine_similarity(got.float().cpu(), want, dim=-1).min() > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_uploads_bring_every_byte_whatever_the_layout(dtype: torch.dtype) -> None:
    uploads = Uploads(torch.device("cuda"), buffer_bytes=4096)
    whole = torch.randn(1000, 501)
    parts = [whole, whole[:, 3:77], whole[5:6], whole[0], whole[:, 7], whole[:0], whole.t(), whole[:300, :33].half()]
    sent = [uploads.put(part, dtype) for part in parts]
    uploads.finish()
    for got, part in zip(sent, parts, strict=True):
        assert got.is_contiguous()
        assert torch.equal(got.cpu(), part.to(dtype))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bert-classifier", "opt-350m"])
def test_everything_a_shard_holds_is_on_its_device(name: str, tiny_model: MakeModel) -> None:
    shard = ShardSteps(tiny_model(name)[0], 2, device="cuda").shards[0]
    with torch.inference_mode(), torch.device("meta"):  # whatever is made without naming a device shows at once
        tokens = torch.arange(5, device="cuda")
        hidden = shard.finish(shard.embed(tokens, tokens))
    assert hidden.is_cuda
    assert torch.cuda.memory_allocated() >= shard.weight_bytes
