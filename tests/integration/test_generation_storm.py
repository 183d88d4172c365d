"""500 calls of every task, at random, on ranks whose KV memory is too small for them."""

import asyncio
from collections import Counter, defaultdict
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest

from liger.client import AsyncClient
from liger.cluster_views import fetch_profile
from liger.errors import RequestCancelledError
from liger.local_cluster import LocalCluster
from tests.support.kept_profiles import keep_eager_profile
from tests.support.served_llama import (
    NAME,
    NUM_LAYERS,
    Reference,
    check_nothing_is_left,
    cluster_spec,
    generate,
    make_served_llama,
    state_of,
)

NUM_CALLS = 500
MAX_TOKENS = 20
NUM_BLOCKS = 60  # of 8 tokens; the longest sequence takes 12
MOST_AT_ONCE = 48
PROMPT_LENGTHS = (1, 8, 17, 24, 40, 41, 64, 72)
SIZES = {"max_batch_tokens": 128, "num_rows": 24}
CONTROLLER = {
    "strategy": "interleaved",
    "max-batch-tokens": str(SIZES["max_batch_tokens"]),
    "max-sequences": str(SIZES["num_rows"]),
}
LABELS = ("red", "green", "blue colours")


@dataclass(frozen=True)
class Call:
    kind: str  # greedy, sampled, embed, score, classify
    prompt: tuple[int, ...]
    other: tuple[int, ...]  # second input of discriminative tasks
    seed: int
    n: int
    max_tokens: int
    stop_token_ids: tuple[int, ...]
    priority: int
    cancel_after: int | None  # events


def made_prompts(chance: Random) -> list[tuple[int, ...]]:
    """Return prompts of which many begin alike."""
    stems = [[chance.randrange(3, 400) for _ in range(max(PROMPT_LENGTHS))] for _ in range(6)]
    prompts = []
    for _ in range(90):
        length = chance.choice(PROMPT_LENGTHS)
        shared = chance.randint(0, length)
        prompts.append((*chance.choice(stems)[:shared], *(chance.randrange(3, 400) for _ in range(length - shared))))
    return prompts


def made_calls(chance: Random, reference: Reference, prompts: list[tuple[int, ...]]) -> list[Call]:
    kinds = Counter(greedy=10, sampled=3, embed=2, score=2, classify=1)
    calls = []
    for _ in range(NUM_CALLS):
        kind = chance.choices(list(kinds), list(kinds.values()))[0]
        prompt = chance.choice(prompts[:20] if kind == "sampled" else prompts)
        stop = chance.choice(reference.tokens(prompt, MAX_TOKENS))
        calls.append(
            Call(
                kind=kind,
                prompt=prompt,
                other=chance.choice(prompts),
                seed=chance.randrange(3),
                n=chance.choice((1, 1, 2, 3)),
                max_tokens=chance.randint(1, MAX_TOKENS),
                stop_token_ids=(stop,) if chance.random() < 0.3 else (),
                priority=chance.choice((-5, 0, 0, 7)),
                cancel_after=chance.choice((0, 1, 2, 5, 9)) if chance.random() < 0.15 else None,
            )
        )
    return calls


async def generated(client: AsyncClient, call: Call):
    options = {"max_tokens": call.max_tokens, "n": call.n, "stop_token_ids": call.stop_token_ids}
    options |= {"priority": call.priority, "ignore_eos": True}
    if call.kind == "sampled":
        options |= {"temperature": 1.0, "seed": call.seed, "top_p": 0.9}
    if call.cancel_after is None:
        return await generate(client, call.prompt, **options)
    stream = client.generate(NAME, call.prompt, **options)
    try:
        async with stream, aclosing(stream.events()) as events:
            for _ in range(call.cancel_after):
                if await anext(events, None) is None:
                    break
    except RequestCancelledError:
        pass
    return "cancelled"


async def answer(client: AsyncClient, call: Call, depths: list[int]):
    match call.kind:
        case "embed":
            reply = await client.embed(NAME, [call.prompt, call.other], priority=call.priority)
            depths.append(reply.timings.depth)
            return reply.embeddings
        case "score":
            return [item.logprob for item in (await client.score(NAME, [(call.prompt, call.other)])).scores]
        case "classify":
            reply = await client.classify(NAME, [call.prompt], labels=LABELS, priority=call.priority)
            return [each.scores for each in reply.classifications]
        case _:
            return await generated(client, call)


async def storm(client: AsyncClient, chance: Random, calls: list[Call], depths: list[int]) -> list:
    """Run the calls, as many at once as chance says each time: bursts and lulls, without a clock."""
    tasks, under_way = [], set()
    async with asyncio.TaskGroup() as group:
        for call in calls:
            allowed = chance.randint(MOST_AT_ONCE // 4, MOST_AT_ONCE) if chance.random() < 0.95 else 1
            while len(under_way) >= allowed:
                _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            tasks.append(group.create_task(answer(client, call, depths)))
            under_way.add(tasks[-1])
    return [task.result() for task in tasks]


def check_generations(calls: list[Call], answers: list, reference: Reference) -> None:
    drawn = defaultdict(set)
    for call, got in zip(calls, answers, strict=True):
        if call.cancel_after is not None:
            continue
        if call.kind == "greedy":
            assert got == [reference.tokens(call.prompt, call.max_tokens, call.stop_token_ids)] * call.n
        elif call.kind == "sampled":
            assert len(got) == call.n
            for sample, tokens in enumerate(got):
                assert len(tokens) == call.max_tokens or tokens[-1] in call.stop_token_ids
                drawn[call.prompt, call.seed, sample].add(tokens)
    together = [sorted(each, key=len) for each in drawn.values()]
    assert sum(len(each) > 1 for each in together) > 10  # drawn twice, of other lengths
    for each in together:
        assert all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(each))


async def check_encodings(client: AsyncClient, calls: list[Call], answers: list) -> None:
    """Hold each distinct question's answers against one that is given with nothing beside it."""
    alone = {}
    for call, got in zip(calls, answers, strict=True):
        if call.kind in {"embed", "score", "classify"}:
            key = (call.kind, call.prompt, call.other if call.kind != "classify" else ())
            if key not in alone:
                alone[key] = await answer(client, call, [])
            assert [pytest.approx(values, abs=1e-4) for values in alone[key]] == list(got)


async def test_500_mixed_calls_with_too_little_memory_give_transformers_tokens_and_all_blocks_back(tmp_path):
    chance = Random(1)
    reference = Reference(make_served_llama(tmp_path / "m"), MAX_TOKENS)
    prompts = made_prompts(chance)
    reference.learn(prompts)
    calls = made_calls(chance, reference, prompts)
    profiles = tmp_path / "profiles"
    profile = keep_eager_profile(tmp_path / "m", profiles, num_layers=NUM_LAYERS, tp_size=2, **SIZES)
    spec = cluster_spec(
        tmp_path / "m", tmp_path / "logs", num_blocks=NUM_BLOCKS, controller=CONTROLLER, profile_folder=str(profiles)
    )
    async with LocalCluster(spec) as cluster, AsyncClient(cluster.gateway, timeout_s=240) as client:
        assert (await state_of(cluster.controller)).num_blocks == NUM_BLOCKS
        assert (await fetch_profile(cluster.controller, NAME)).table == profile
        depths: list[int] = []  # batches in flight beside an embedding's
        answers = await storm(client, chance, calls, depths)
        state = await check_nothing_is_left(cluster.controller)
        assert max(depths) > 1
        assert state.num_preemptions > 0
        assert state.prefix_hit_tokens > 0
        check_generations(calls, answers, reference)
        await check_encodings(client, calls, answers)
        await check_nothing_is_left(cluster.controller)
