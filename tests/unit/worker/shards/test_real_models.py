"""The two packaged models, with any number of ranks, against transformers."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from liger.domain import Pooling
from liger.models.store import models_root
from tests.support.lockstep import Lockstep

pytestmark = pytest.mark.models

PROMPTS = ["What is the capital of France?", "def fibonacci(n):\n", "Once upon a time, in a village by the sea, " * 4]
SENTENCES = ["a cat", "a kitten sleeps on the sofa", "graphics processing units " * 20]
NUM_TOKENS = 24

ranks = pytest.mark.parametrize("tp_size", [1, 2, 3, 4])


def packaged(name: str) -> Path:
    folder = models_root() / name
    if not folder.exists():
        pytest.skip(f"{folder} is missing: run `liger models pull {name}`")
    return folder


@pytest.fixture(scope="module")
def smollm2() -> tuple[Path, list[list[int]], list[torch.Tensor], list[list[int]]]:
    """The folder, prompts, and what transformers gives of them: logits and greedy tokens."""
    folder = packaged("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    options = {"max_new_tokens": NUM_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        logits = [model(torch.tensor([prompt])).logits[0] for prompt in prompts]
    tokens = [model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist() for prompt in prompts]
    return folder, prompts, logits, tokens


@ranks
def test_smollm2_gives_the_logits_and_tokens_of_transformers(
    smollm2: tuple[Path, list[list[int]], list[torch.Tensor], list[list[int]]], tp_size: int
) -> None:
    folder, prompts, logits, tokens = smollm2
    lockstep = Lockstep(folder, tp_size, block_size=16, num_blocks=32)
    for hidden, want in zip(lockstep.encode(prompts), logits, strict=True):
        torch.testing.assert_close(lockstep.logits(hidden), want, rtol=0, atol=1e-3)
    assert lockstep.generate(prompts, NUM_TOKENS, chunk=32) == tokens


@ranks
def test_minilm_gives_the_embeddings_of_transformers(tp_size: int) -> None:
    folder = packaged("all-minilm-l6-v2")
    inputs = AutoTokenizer.from_pretrained(folder)(SENTENCES)["input_ids"]
    model = AutoModel.from_pretrained(folder).eval()
    lockstep = Lockstep(folder, tp_size)
    assert (lockstep.spec.default_pooling, lockstep.spec.default_normalize) == (Pooling.MEAN, True)
    for ids, hidden in zip(inputs, lockstep.encode(inputs), strict=True):
        with torch.inference_mode():
            want = model(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(hidden, want, rtol=0, atol=1e-4)
        assert torch.nn.functional.cosine_similarity(hidden.mean(0), want.mean(0), dim=0) >= 0.9999
