"""64 mixed calls at once give the same answers under every strategy and layout of ranks."""

import asyncio

import pytest
import torch

from liger.client import AsyncClient
from liger.cluster_views import AskedBatch, fetch_plan, fetch_profile, fetch_timeline
from liger.local_cluster import ClusterSpec, GroupSpec, LocalCluster
from liger.spans import lane_use
from tests.support.tiny_models import make_model, token_ids

LAYOUTS = {
    "tensor": (2, 1, {}),
    "interleaved": (2, 1, {}),
    "pipeline": (1, 3, {"stage-layers": "2,1,2"}),
    "interleaved stages": (2, 2, {}),
}
SETTINGS = {
    "vocab_size": 131,
    "hidden_size": 36,
    "intermediate_size": 67,
    "num_hidden_layers": 5,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 4,
    "max_position_embeddings": 128,
}
INPUTS = token_ids(*(3 + 5 * number % 41 for number in range(16)))
NUM_TOKENS = 16


async def generate(client: AsyncClient, number: int):
    stream = client.generate("m", INPUTS[number], max_tokens=NUM_TOKENS, ignore_eos=True)
    tokens = [token async for event in stream.events() for token in getattr(event, "token_ids", ())]
    return tokens, stream.timings


async def embed(client: AsyncClient, number: int):
    reply = await client.embed("m", INPUTS[number:] + INPUTS[:number])
    return [value for vector in reply.embeddings for value in vector], reply.timings


async def score(client: AsyncClient, number: int):
    reply = await client.score("m", [(INPUTS[number], INPUTS[-number - 1])])
    return [item.logprob for item in reply.scores], reply.timings


async def sample(client: AsyncClient, number: int):
    stream = client.generate("m", INPUTS[number], max_tokens=4, temperature=1.0, seed=number, ignore_eos=True)
    return [token async for event in stream.events() for token in getattr(event, "token_ids", ())], stream.timings


def greedy(model, prompt: list[int]) -> list[int]:
    """Return what transformers draws."""
    with torch.inference_mode():
        whole = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return whole[0, len(prompt) :].tolist()


async def answers(cluster: LocalCluster):
    async with AsyncClient(cluster.gateway, timeout_s=240) as client:
        calls = [(kind, number) for number in range(16) for kind in (generate, embed, score, sample)]
        return await asyncio.gather(*(kind(client, number) for kind, number in calls))


async def check_views(cluster: LocalCluster) -> None:
    """See that what operators ask for is there: spans of both lanes on every rank."""
    uses = lane_use(await fetch_timeline(cluster.controller, "m", 60.0))
    assert set(uses) == {0, 1}
    assert all(use.compute_ns > 0 and use.communication_ns > 0 for use in uses.values())
    profile = await fetch_profile(cluster.controller, "m")
    assert profile.table is not None
    assert profile.table.contention
    plan = await fetch_plan(cluster.controller, "m", [AskedBatch(num_tokens=tokens) for tokens in (64, 64, 32)], 3)
    assert 0 < plan.makespan_ns <= plan.serial_ns * 1.02, "at most 2 % behind one after another"


async def test_64_mixed_calls_give_the_same_answers_under_every_strategy(tmp_path):
    model = make_model(tmp_path / "m", "LlamaForCausalLM", SETTINGS)
    expected = [greedy(model, prompt) for prompt in INPUTS]
    reference = None
    for name, (tp_size, pp_size, options) in LAYOUTS.items():
        group = GroupSpec(
            model_folder=tmp_path / "m",
            model_name="m",
            tp_size=tp_size,
            pp_size=pp_size,
            options={"kv-cache-gib": "0.01", "check-schedules": ""},
        )
        spec = ClusterSpec(
            groups=(group,),
            controller_options={"strategy": name.split()[0], "max-batch-tokens": "64", **options},
            threads_per_worker=1,
            log_folder=tmp_path / name,
        )
        async with LocalCluster(spec) as cluster:
            got = await answers(cluster)
            if name == "interleaved":
                await check_views(cluster)
        assert [tokens for tokens, _ in got[::4]] == expected, name
        depths = {timings.depth for _, timings in got}
        assert max(depths) == 1 if name == "tensor" else max(depths) > 1, name
        numbers = [value for answer, _ in (*got[1::4], *got[2::4]) for value in answer]
        reference = reference or (numbers, [tokens for tokens, _ in got[3::4]])
        assert numbers == pytest.approx(reference[0], abs=1e-4), name
        assert [tokens for tokens, _ in got[3::4]] == reference[1], name
