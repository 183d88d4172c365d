"""A seed's tokens are the same under every strategy, on any number of ranks, alone and in a crowd."""

import asyncio
from collections.abc import Mapping

from liger.client import AsyncClient
from liger.local_cluster import LocalCluster
from tests.support.served_llama import (
    NAME,
    check_nothing_is_left,
    cluster_spec,
    generate,
    make_served_llama,
)
from tests.support.tiny_models import token_ids

LAYOUTS = {  # strategy, ranks of a stage, stages, KV blocks
    "one rank": ("tensor", 1, 1, 1024),
    "tensor": ("tensor", 2, 1, 1024),
    "interleaved with little memory": ("interleaved", 2, 1, 26),
    "pipeline": ("pipeline", 1, 2, 1024),
    "three uneven ranks": ("interleaved", 3, 1, 1024),
}
NUM_TOKENS = 24
PROMPTS = token_ids(1, 9, 30, 55)
PLAIN = {"temperature": 1.0}
CONTROLS: list[Mapping[str, object]] = [
    PLAIN,
    {"temperature": 0.7, "top_k": 7},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "typical_p": 0.7},
    {"temperature": 1.5, "min_p": 0.05},
    {"temperature": 1.0, "repetition_penalty": 1.7, "presence_penalty": 0.5, "frequency_penalty": 0.4},
    {"temperature": 1.0, "logit_bias": dict.fromkeys(range(0, 403, 7), 3.0), "banned_token_ids": [14, 21]},
    {"temperature": 1.0, "allowed_token_ids": list(range(100, 300, 3)), "min_tokens": 5, "stop_token_ids": [103]},
    {
        "temperature": 1.1,
        "top_k": 60,
        "top_p": 0.95,
        "typical_p": 0.95,
        "min_p": 0.001,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": -0.2,
        "logit_bias": {5: -4.0, 200: 2.0, 402: 5.0},
    },
]
CALLS = [
    (prompt, {**controls, "seed": 11 * number + place, "n": 3, "max_tokens": NUM_TOKENS})
    for number, controls in enumerate(CONTROLS)
    for place, prompt in enumerate(PROMPTS)
    if (number + place) % 2 == 0
]


async def crowd(client: AsyncClient, number: int):
    """Do something else meanwhile."""
    if number % 3 == 0:
        await client.embed(NAME, PROMPTS[number % 4 :])
    else:
        await generate(client, PROMPTS[number % 4], max_tokens=8 + number % 11, priority=number % 5 - 2)


async def drawn_together(client: AsyncClient):
    calls = [generate(client, prompt, **options) for prompt, options in CALLS]
    answers = await asyncio.gather(*calls, *(crowd(client, number) for number in range(12)))
    return answers[: len(CALLS)]


async def test_a_seed_gives_the_same_tokens_in_every_layout_alone_and_in_a_crowd(tmp_path):
    make_served_llama(tmp_path / "m")
    expected = None
    for name, (strategy, tp_size, pp_size, num_blocks) in LAYOUTS.items():
        options = {"strategy": strategy, "max-batch-tokens": "64"}
        spec = cluster_spec(
            tmp_path / "m",
            tmp_path / name,
            tp_size=tp_size,
            pp_size=pp_size,
            num_blocks=num_blocks,
            controller=options,
        )
        async with LocalCluster(spec) as cluster, AsyncClient(cluster.gateway, timeout_s=240) as client:
            if expected is None:
                expected = [await generate(client, prompt, **options) for prompt, options in CALLS]
                check_variety(expected)
            for (_, options), one, other in zip(CALLS, await drawn_together(client), expected, strict=True):
                assert one == other, (name, options)
            state = await check_nothing_is_left(cluster.controller)
            assert (state.num_preemptions > 0) == (num_blocks < 100)


def check_variety(answers) -> None:
    """See that draws are no mere repetition: the samples of a call differ, and so do calls."""
    assert all(len(set(samples)) == 3 for samples in answers)
    assert len({samples[0] for samples in answers}) == len(answers)
