"""Calls at the limits of what is allowed, and beyond, harm neither the service nor the calls beside them."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from random import Random

import grpc.aio
import pytest

from liger.client import AsyncClient
from liger.client.requests import generate_request
from liger.errors import DeadlineError, InputTooLongError, InvalidRequestError, LigerError, OverloadedError
from liger.local_cluster import LocalCluster
from liger.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.served_llama import (
    MAX_LENGTH,
    NAME,
    Reference,
    check_nothing_is_left,
    cluster_spec,
    generate,
    make_served_llama,
    state_of,
    state_when,
)
from tests.support.tiny_models import token_ids

VOCAB_SIZE = 10_007
ROWS = 4
LIMITS = {
    "max-sequences": str(ROWS),
    "max-batch-tokens": "64",
    "max-requests": "16",
    "max-waiting-tokens": "4000",
    "max-unread-tokens": "128",
    "lease-ttl-s": "60",
}
PROMPTS = [tuple(ids) for ids in token_ids(3, 20, 41, 300)]
NUM_TOKENS = 24


@asynccontextmanager
async def frozen(cluster: LocalCluster):
    """Stop a rank's process for a while: what is asked for meanwhile waits."""
    pid = cluster.processes[f"worker-{NAME}-1"].pid
    os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(pid, signal.SIGCONT)


async def check_others(client: AsyncClient, reference: Reference) -> None:
    """See that other calls get transformers' tokens."""
    answers = await asyncio.gather(*(generate(client, p, max_tokens=NUM_TOKENS, ignore_eos=True) for p in PROMPTS))
    assert answers == [[reference.tokens(prompt, NUM_TOKENS)] for prompt in PROMPTS]


async def check_stop_strings(client: AsyncClient) -> None:
    """Stop where any of the strings ends first, however they overlap, repeat or nearly fit."""
    options = {"max_tokens": 60, "temperature": 1.0, "seed": 3, "allowed_token_ids": list(range(3, 97))}
    whole = await client.generate(NAME, PROMPTS[1], **options).text()
    places = [place for place in range(10, len(whole) - 3) if "\ufffd" not in whole[place : place + 3]]
    assert len(places) > 5
    for place in places[:: len(places) // 5]:
        wanted = whole[place : place + 3]
        near = [(wanted + "\u0000" + wanted * 400)[: 1024 - number] for number in range(50)]
        strings = [wanted, *near, wanted[:2] * 300, "\U0001f600" * 1024, wanted[::-1] + "\u0001"]
        text = await client.generate(NAME, PROMPTS[1], stop=strings, **options).text()
        assert text == whole[: whole.index(wanted)]
    for wrong in ([""], ["x" * 1025], ["x"] * 65):
        with pytest.raises(InvalidRequestError) as caught:
            await client.generate(NAME, PROMPTS[0], stop=wrong).text()
        assert caught.value.field.startswith("stop.stop")


async def check_biases(client: AsyncClient) -> None:
    """Bias 10,000 tokens away: what is left is drawn. One bias too many, and the call is refused."""
    left = set(range(10_000, VOCAB_SIZE))
    biases = dict.fromkeys(range(10_000), -100.0)
    calls = [generate(client, prompt, max_tokens=12, logit_bias=biases, n=2) for prompt in PROMPTS[:3]]
    for first, second in await asyncio.gather(*calls):
        assert first == second
        assert len(first) == 12
        assert left.issuperset(first)
    (only,) = await generate(client, PROMPTS[0], max_tokens=3, logit_bias={**biases, 10_003: 100.0})
    assert only == (10_003,) * 3
    with pytest.raises(InvalidRequestError, match="10007"):
        await generate(client, PROMPTS[0], logit_bias={VOCAB_SIZE: 1.0})


async def check_lengths(client: AsyncClient, reference: Reference) -> None:
    longest = tuple(3 + (5 * place) % 900 for place in range(MAX_LENGTH - 1))
    assert await generate(client, longest, n=2) == [reference.tokens(longest, 1)] * 2
    for token in (0, VOCAB_SIZE - 1):
        (tokens,) = await generate(client, [token], max_tokens=NUM_TOKENS, ignore_eos=True)
        assert tokens == reference.tokens((token,), NUM_TOKENS)
    with pytest.raises(InputTooLongError):
        await generate(client, (*longest, 3))
    for wrong in ([], [VOCAB_SIZE]):
        with pytest.raises(InvalidRequestError):
            await generate(client, wrong)


async def check_readers(cluster: LocalCluster, client: AsyncClient, reference: Reference) -> None:
    """Let clients that never read hold every row: others run in their place."""
    narrow = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384)]  # what travels unread
    async with grpc.aio.insecure_channel(cluster.gateway, options=narrow) as channel:
        options = {"max_tokens": 600, "ignore_eos": True, "logprobs": 20, "n": ROWS}
        requests = [generate_request(NAME, [7 + number] * 9, options) for number in range(2)]
        hogs = [InferenceServiceStub(channel).Generate(request) for request in requests]
        before = await state_when(cluster.controller, lambda each: each.num_running == ROWS)
        await check_others(client, reference)
        state = await state_of(cluster.controller)
        assert state.num_preemptions > before.num_preemptions
        assert state.num_waiting + state.num_running >= len(hogs)
        for hog in hogs:
            hog.cancel()
        await check_nothing_is_left(cluster.controller)


async def refusal(call) -> LigerError | None:
    try:
        await call
    except LigerError as error:
        return error
    return None


async def first_refusal(client: AsyncClient, reason: str, prompt, **options) -> LigerError:
    """Return how a call is refused because of its deadline, not met by it; how much time is too little, ranks say."""
    for timeout_s in (0.004 * 1.2**power for power in range(30)):
        error = await refusal(generate(client, prompt, timeout_s=timeout_s, **options))
        if error is not None and reason in error.message:
            return error
    raise AssertionError(f"never refused: {error}")


async def check_refusals(cluster: LocalCluster, client: AsyncClient, reference: Reference) -> None:
    """Fill the queue while nothing can run; what has no room or no time is refused, and told when to try again."""
    options = {"min_tokens": 600, "max_tokens": 600, "ignore_eos": True}
    assert isinstance(await first_refusal(client, "this takes about", PROMPTS[0], **options), DeadlineError)
    prompts = [(11 + number, *PROMPTS[3]) for number in range(18)]
    async with frozen(cluster), asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(outcome(client, prompt)) for prompt in prompts]
        await state_when(cluster.controller, lambda each: each.num_waiting_tokens > 3000)
        late = await first_refusal(client, "what waits before this", PROMPTS[0], max_tokens=1)
        assert isinstance(late, OverloadedError)
        assert late.retry_after_s > 0
        short = [tasks.create_task(outcome(client, PROMPTS[0])) for _ in range(16)]
        await asyncio.wait([*calls, *short], return_when=asyncio.FIRST_COMPLETED)
        os.killpg(cluster.processes[f"worker-{NAME}-1"].pid, signal.SIGCONT)
    refused = []
    for call, prompt in zip([*calls, *short], [*prompts, *[PROMPTS[0]] * 16], strict=True):
        if isinstance(call.result(), OverloadedError):
            refused.append(call.result())
        else:
            assert call.result() == [reference.tokens(prompt, 2)]
    assert all(error.retry_after_s > 0 for error in refused)
    assert any("tokens wait" in error.message for error in refused)
    assert any("requests are under way" in error.message for error in refused)


async def outcome(client: AsyncClient, prompt):
    """Return a call's tokens, or how it was refused for want of room."""
    try:
        return await generate(client, prompt, max_tokens=2, ignore_eos=True)
    except OverloadedError as error:
        return error


async def leave_after(client: AsyncClient, prompt, num_events: int, n: int) -> None:
    """Begin a generation and cancel it after some events; there is one for each token at most."""
    stream = client.generate(NAME, prompt, max_tokens=NUM_TOKENS, ignore_eos=True, n=n)
    async with stream, aclosing(stream.events()) as events:
        for _ in range(num_events):
            await anext(events, None)


async def check_cancels(cluster: LocalCluster, client: AsyncClient, reference: Reference) -> None:
    """Cancel while queued, between chunks of a prompt, at any token, and at the last."""
    chance = Random(4)
    for _ in range(4):
        async with asyncio.TaskGroup() as tasks:
            kept = tasks.create_task(check_others(client, reference))
            for _ in range(8):
                num_events = chance.choice((0, 1, 2, chance.randrange(NUM_TOKENS), NUM_TOKENS, NUM_TOKENS + 1))
                tasks.create_task(leave_after(client, chance.choice(PROMPTS), num_events, chance.choice((1, 3))))
        assert kept.done()
        await check_nothing_is_left(cluster.controller)
    for _ in range(4):  # what waits, and what has published chunks that no rank has acknowledged
        async with frozen(cluster), AsyncExitStack() as stack:
            prompts = [(*PROMPTS[3], number) for number in range(8)]
            streams = [client.generate(NAME, prompt, max_tokens=4, n=2, ignore_eos=True) for prompt in prompts]
            for stream in streams:
                await stack.enter_async_context(stream)
            await state_when(cluster.controller, lambda each: each.num_in_flight > 0 and each.num_waiting > 4)
            for stream in chance.sample(streams, 5):
                await stream.close()
        await check_nothing_is_left(cluster.controller)


async def test_hostile_calls_harm_neither_the_service_nor_others(tmp_path):
    reference = Reference(make_served_llama(tmp_path / "m", vocab_size=VOCAB_SIZE), NUM_TOKENS)
    spec = cluster_spec(tmp_path / "m", tmp_path / "logs", num_blocks=120, controller=LIMITS)
    async with LocalCluster(spec) as cluster, AsyncClient(cluster.gateway, timeout_s=240) as client:
        await check_others(client, reference)
        await check_stop_strings(client)
        await check_biases(client)
        await check_lengths(client, reference)
        await check_readers(cluster, client, reference)
        await check_cancels(cluster, client, reference)
        await check_refusals(cluster, client, reference)
        await check_others(client, reference)
        await check_nothing_is_left(cluster.controller)
