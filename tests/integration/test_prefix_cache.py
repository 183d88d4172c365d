"""A prompt's beginning that many requests share is computed once."""

import asyncio

from liger.client import AsyncClient
from liger.local_cluster import LocalCluster
from tests.support.served_llama import (
    BLOCK_SIZE,
    NAME,
    Reference,
    check_nothing_is_left,
    cluster_spec,
    make_served_llama,
    outputs,
    state_of,
    state_when,
)

NUM_SHARED, NUM_TOKENS = 512, 8
NUM_BLOCKS = 160  # of 8 tokens: two such prompts, and not three
SHARED = tuple(3 + (7 * place + place // 5) % 390 for place in range(NUM_SHARED))
PROMPTS = [(*SHARED, *range(20 + 9 * number, 26 + 10 * number)) for number in range(8)]
SAMPLED = {"temperature": 1.0, "top_p": 0.9, "seed": 5}


async def complete(client: AsyncClient, prompt, **options):
    """Return tokens, and how many of the prompt were cached and what that saved."""
    stream = client.generate(NAME, prompt, max_tokens=NUM_TOKENS, ignore_eos=True, **options)
    (tokens,) = await outputs(stream)
    return tokens, stream.usage.cached_tokens, stream.timings.saved_prefill_ns


async def test_a_shared_beginning_is_computed_once_and_changes_no_token(tmp_path):
    reference = Reference(make_served_llama(tmp_path / "m"), NUM_TOKENS)
    reference.learn(PROMPTS)
    spec = cluster_spec(tmp_path / "m", tmp_path / "logs", num_blocks=NUM_BLOCKS)
    async with LocalCluster(spec) as cluster, AsyncClient(cluster.gateway, timeout_s=240) as client:
        cold = await complete(client, PROMPTS[0])
        assert cold == (reference.tokens(PROMPTS[0], NUM_TOKENS), 0, 0)
        drawn_warm = await complete(client, PROMPTS[1], **SAMPLED)
        state = await state_when(cluster.controller, lambda each: each.num_used_blocks == 0)
        assert state.num_cached_blocks >= NUM_SHARED // BLOCK_SIZE
        await check_warm(client, reference)
        after = await state_of(cluster.controller)
        assert after.prefix_hit_tokens - state.prefix_hit_tokens == 7 * NUM_SHARED
        assert after.prefix_query_tokens - state.prefix_query_tokens == sum(map(len, PROMPTS[1:]))
        await check_eviction(client, reference, drawn_warm)
        await check_nothing_is_left(cluster.controller)


async def check_warm(client: AsyncClient, reference: Reference) -> None:
    """See that requests at once, and each alone, are spared the shared blocks."""
    answers = await asyncio.gather(*(complete(client, prompt) for prompt in PROMPTS[1:]))
    for prompt, (tokens, num_cached, saved_ns) in zip(PROMPTS[1:], answers, strict=True):
        assert tokens == reference.tokens(prompt, NUM_TOKENS)
        assert num_cached == NUM_SHARED
        assert saved_ns > 0


async def check_eviction(client: AsyncClient, reference: Reference, drawn_warm) -> None:
    """See that what other prompts have pushed out is computed again, to the same tokens."""
    others = [tuple(3 + (11 * place + number) % 397 for place in range(600)) for number in range(3)]
    assert sum(map(len, others)) > NUM_BLOCKS * BLOCK_SIZE
    for other in others:
        assert (await complete(client, other))[:2] == (reference.tokens(other, NUM_TOKENS), 0)
    tokens, num_cached, saved_ns = await complete(client, PROMPTS[1], **SAMPLED)
    assert (num_cached, saved_ns) == (0, 0)
    assert tokens == drawn_warm[0]
    assert drawn_warm[1] == NUM_SHARED
