"""Greedy tokens through chunked prefill and paged decode of a mixed batch equal those of transformers' generate."""

import pytest
import torch
from transformers import PreTrainedModel

from tests.support.lockstep import Lockstep
from tests.support.tiny_models import DECODERS, MakeModel, token_ids

PROMPTS = token_ids(17, 5, 20, 5, 1)
NUM_TOKENS = 12


@torch.inference_mode()
def generate(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    output = model.generate(
        torch.tensor([prompt]), max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("tp_size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", DECODERS)
def test_greedy_tokens_equal_those_of_transformers(name: str, tp_size: int, tiny_model: MakeModel) -> None:
    folder, model = tiny_model(name)
    got = Lockstep(folder, tp_size).generate(PROMPTS, NUM_TOKENS, chunk=7)
    assert got == [generate(model, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_the_size_of_chunks_and_blocks_changes_nothing(name: str, chunk: int, tiny_model: MakeModel) -> None:
    folder, model = tiny_model(name)
    got = Lockstep(folder, 2, block_size=chunk).generate(PROMPTS, NUM_TOKENS, chunk=chunk)
    assert got == [generate(model, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_a_sequence_decodes_alike_alone_and_in_company(name: str, tiny_model: MakeModel) -> None:
    folder, _ = tiny_model(name)
    ranks = Lockstep(folder, 2)
    alone = [ranks.generate([prompt], NUM_TOKENS, chunk=64)[0] for prompt in PROMPTS]
    assert ranks.generate(PROMPTS, NUM_TOKENS, chunk=64) == alone


def test_decode_and_prefill_may_share_a_batch(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")
    ranks = Lockstep(folder, 2)
    tables = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    first, second, third = token_ids(6, 9, 4)
    ranks.step([first[:5], second[:3]], [0, 0], tables[:2])
    mixed = ranks.step([first[5:], second[3:], third], [5, 3, 0], tables)
    for got, ids in zip(mixed, (first[5:], second[3:], third), strict=True):
        assert len(got) == len(ids)
    for got, ids in zip(mixed, (first, second, third), strict=True):
        torch.testing.assert_close(got[-1], ranks.encode([ids])[0][-1], rtol=0, atol=1e-5)
