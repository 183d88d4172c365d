"""Slow readers: the controller is told what each client has taken, and nothing of what it has not."""

import asyncio

import grpc.aio
import pytest

from gateway.detokenizer import Silence
from gateway.generate_inbox import ACKNOWLEDGE_EVERY, GenerateInbox
from gateway.sample import Likelihoods, Sample, StopTokens
from gateway.stop import StopScanner, StopStrings
from gateway.work import SampleTokens
from liger.client import Delta
from liger.errors import LigerError
from liger.schedule import Logprob
from liger.v1 import controller_pb2, types_pb2
from liger.v1 import inference_pb2 as pb
from liger.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.fake_controller import LENGTH, Conversation
from tests.unit.gateway.conftest import Gateway

AHEAD = 512  # tokens of a sample that the controller makes beyond the acknowledged ones


class Noted:
    """An upstream that notes what it is told."""

    def __init__(self) -> None:
        self.acknowledged: list[tuple[int, int]] = []

    def stop(self, sample: int) -> None:
        raise AssertionError("there are no stop strings")

    def acknowledge(self, sample: int, num_tokens: int) -> None:
        self.acknowledged.append((sample, num_tokens))


def inbox_of(num_samples: int, upstream: Noted, num_given: int | None = None) -> GenerateInbox:
    given = num_samples if num_given is None else num_given
    samples = [
        Sample(
            index,
            detokenizer=Silence(),
            scanner=StopScanner(StopStrings(()), include_stop=False),
            stop_tokens=StopTokens(silent_ids=frozenset(), grammar_ids=frozenset(), spellings={}),
            min_tokens=0,
            likelihoods=Likelihoods(are_shown=False, rank=given < num_samples),
        )
        for index in range(num_samples)
    ]
    return GenerateInbox(samples, upstream, num_given=given)


def tokens(count: int, *, offset: int = 0, sample: int = 0) -> SampleTokens:
    logprobs = (Logprob(token_id=5, logprob=-1.0),) * count
    return SampleTokens(sample=sample, offset=offset, token_ids=(5,) * count, logprobs=logprobs)


async def test_tokens_count_as_taken_once_the_client_asks_for_more() -> None:
    upstream = Noted()
    inbox = inbox_of(2, upstream)
    inbox.take(tokens(100))
    inbox.take(tokens(70, sample=1))
    events = inbox.events()
    await anext(events)
    assert upstream.acknowledged == []  # given, but its writing may still wait for the client
    inbox.take(tokens(30, offset=100))
    await anext(events)
    assert upstream.acknowledged == [(0, 100)]
    await anext(events)
    assert upstream.acknowledged == [(0, 100), (1, 70)]
    await events.aclose()


async def test_few_tokens_are_acknowledged_together() -> None:
    upstream = Noted()
    inbox = inbox_of(1, upstream)
    events = inbox.events()
    for offset in range(3 * ACKNOWLEDGE_EVERY + 1):
        inbox.take(tokens(1, offset=offset))
        await anext(events)
    assert upstream.acknowledged == [(0, 64), (0, 128), (0, 192)]
    await events.aclose()


async def test_what_nobody_reads_is_never_acknowledged() -> None:
    upstream = Noted()
    inbox = inbox_of(1, upstream)
    for offset in range(0, 2000, 10):
        inbox.take(tokens(10, offset=offset))
    assert upstream.acknowledged == []


async def test_ranked_samples_count_as_taken_when_they_come() -> None:
    """Else they would wait for a client that gets nothing before their end."""
    upstream = Noted()
    inbox = inbox_of(2, upstream, num_given=1)
    inbox.take(tokens(64))
    inbox.take(tokens(10, sample=1))
    inbox.take(tokens(64, offset=64))
    assert upstream.acknowledged == [(0, 64), (0, 128)]


def paced(gateway: Gateway, num_tokens: int, word: int) -> None:
    """Answer as the controller does: never more than AHEAD tokens of a sample beyond what is acknowledged."""
    controller = gateway.controller

    async def one(submit: controller_pb2.Submit, talk: Conversation, sample: int) -> None:
        place = (submit.request_id, sample)
        likelihood = types_pb2.TokenLogprob(token_id=word, logprob=-0.5)
        told = [likelihood] * 32 if submit.generate.HasField("logprobs") else None
        for offset in range(0, num_tokens, 32):
            fewest = offset + 32 - AHEAD
            await controller.until(lambda fewest=fewest: controller.taken.get(place, 0) >= fewest)
            reason = LENGTH if offset + 32 >= num_tokens else 0
            talk.tokens(submit.request_id, [word] * 32, sample=sample, offset=offset, reason=reason, logprobs=told)

    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        await asyncio.gather(*(one(submit, talk, sample) for sample in range(submit.generate.num_samples)))
        talk.finish(submit.request_id)

    controller.script = script


@pytest.mark.parametrize("options", [{}, {"n": 3}, {"n": 1, "best_of": 3}, {"n": 2, "prompt_logprobs": 0}])
async def test_a_reader_gets_all_from_a_controller_that_waits_for_it(gateway: Gateway, options: dict[str, int]) -> None:
    gateway.controller.models["bare"].info.max_length = 100_000
    await gateway.tell_catalogue()
    paced(gateway, 3200, 7)
    stream = gateway.client.generate("bare", [5], max_tokens=3200, **options)  # type: ignore[arg-type]
    found = [0] * options.get("n", 1)
    async for event in stream.events():
        if isinstance(event, Delta):
            found[event.index] += len(event.token_ids)
    assert found == [3200] * len(found)


async def test_a_client_that_reads_nothing_is_not_acknowledged_while_others_flow(gateway: Gateway) -> None:
    num_tokens = 200_000
    sent = asyncio.Event()

    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        if submit.request_id != "deaf":
            await gateway.controller.play(submit, talk)
            return
        for offset in range(0, num_tokens, 100):
            talk.tokens(submit.request_id, [499] * 100, offset=offset)
        sent.set()

    gateway.controller.script = script
    gateway.controller.models["bare"].info.max_length = 2 * num_tokens
    await gateway.tell_catalogue()
    request = pb.GenerateRequest(request_id="deaf", model="bare", token_ids={"ids": [5]})
    request.stop.max_tokens = num_tokens + 1
    narrow = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384))
    async with grpc.aio.insecure_channel(gateway.address, options=narrow) as channel:
        call = InferenceServiceStub(channel).Generate(request)
        await sent.wait()
        other = gateway.client.generate("bare", [6] * 2000, request_id="other")
        assert sum([len(event.token_ids) async for event in other.events() if isinstance(event, Delta)]) == 1024
        assert gateway.controller.taken.get(("deaf", 0), 0) < num_tokens
        call.cancel()
    await gateway.controller.until(lambda: gateway.controller.cancels)


async def test_nothing_is_acknowledged_of_a_request_that_has_failed(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        talk.tokens(submit.request_id, [5] * 100)
        raise LigerError("it broke")

    gateway.controller.script = script
    with pytest.raises(LigerError, match="it broke"):
        await gateway.client.generate("bare", [5], request_id="broken").text()
    gateway.controller.script = gateway.controller.play
    await gateway.client.embed("bare", [[5]])  # comes after whatever else was told
    assert gateway.controller.taken == {}
