"""Models of several architectures through the whole service, against transformers."""

import pytest
import torch

from liger.client import AsyncClient
from liger.errors import InvalidRequestError, ModelFolderError, UnavailableError, UnsupportedTaskError
from liger.local_cluster import GroupSpec
from tests.support.clusters import running_cluster
from tests.support.tiny_models import MAX_LENGTH, VOCAB_SIZE, copy_model, model_maker, token_ids

PROMPTS = token_ids(3, 11, 1, 30)


async def check_greedy(client: AsyncClient, name: str, model) -> None:
    for prompt in PROMPTS:
        stream = client.generate(name, prompt, max_tokens=20, ignore_eos=True)
        got = [token async for event in stream.events() for token in getattr(event, "token_ids", ())]
        with torch.inference_mode():
            whole = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt)),
                max_new_tokens=20,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert got == whole[0, len(prompt) :].tolist()


async def test_several_architectures_and_rank_counts_answer_like_transformers(tmp_path):
    make = model_maker(tmp_path)
    ranks = {"qwen3": 3, "opt-350m": 2, "gpt2": 1, "bert-cross-encoder": 2, "roberta-classifier": 1}
    models = {name: make(name) for name in ranks}
    groups = [
        GroupSpec(model_folder=folder, model_name=name, tp_size=ranks[name], options={"kv-cache-gib": "0.01"})
        for name, (folder, _) in models.items()
    ]
    async with running_cluster(tmp_path / "logs", *groups, threads_per_worker=1) as client:
        for name in ("qwen3", "opt-350m", "gpt2"):
            await check_greedy(client, name, models[name][1])
        await check_classes(client, "roberta-classifier", models["roberta-classifier"][1])
        await check_ranking(client, "bert-cross-encoder", models["bert-cross-encoder"][1])
        await check_refusals(client)


async def check_classes(client: AsyncClient, name: str, model) -> None:
    reply = await client.classify(name, PROMPTS, raw=True)
    for prompt, got in zip(PROMPTS, reply.classifications, strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0].tolist()
        assert got.scores == pytest.approx(expected, abs=1e-4)
        assert got.label == reply.labels[expected.index(max(expected))]


async def check_ranking(client: AsyncClient, name: str, model) -> None:
    scores = (await client.classify(name, PROMPTS, raw=True)).classifications
    for prompt, got in zip(PROMPTS, scores, strict=True):
        with torch.inference_mode():
            assert got.scores == pytest.approx(model(torch.tensor([prompt])).logits[0].tolist(), abs=1e-4)
    with torch.inference_mode():
        hidden = model.bert(torch.tensor([PROMPTS[1]])).last_hidden_state[0]
    vector = (await client.embed(name, [PROMPTS[1]], normalize=False)).embeddings[0]
    assert torch.cosine_similarity(torch.tensor(vector), hidden.mean(0), dim=0) > 0.9999


async def check_refusals(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequestError, match=str(VOCAB_SIZE)):
        await client.embed("qwen3", [[VOCAB_SIZE]])
    with pytest.raises(InvalidRequestError, match=str(MAX_LENGTH)):
        await client.generate("gpt2", [1] * MAX_LENGTH, max_tokens=5).text()
    with pytest.raises(UnsupportedTaskError):
        await client.generate("roberta-classifier", [1, 2]).text()
    with pytest.raises(UnsupportedTaskError):
        await client.classify("gpt2", [[1, 2]])


async def test_a_folder_that_cannot_be_served_ends_the_start_with_its_reason(tmp_path):
    folder, _ = model_maker(tmp_path)("gpt2")
    broken = copy_model(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1000])
    group = GroupSpec(model_folder=broken, model_name="broken")
    with pytest.raises((ModelFolderError, UnavailableError), match=r"truncated|shorter|incomplete"):
        async with running_cluster(tmp_path / "logs", group, start_limit_s=60):
            pass
