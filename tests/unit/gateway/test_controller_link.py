"""The conversation with the controller: health follows it, its loss fails what is under way, and it comes again."""

import asyncio
from itertools import islice

import grpc
import grpc.aio
import pytest

from gateway.controller_link import FIRST_DELAY_S, LONGEST_DELAY_S, reconnect_delays
from liger.client import AsyncGenerateStream, Delta
from liger.errors import LigerError, UnavailableError
from liger.v1 import controller_pb2, types_pb2
from liger.v1 import inference_pb2 as pb
from tests.support.fake_controller import LENGTH, Conversation, FakeController
from tests.unit.gateway.conftest import NOT_SERVING, SERVING, Gateway, all_models, model_info, running


async def silence(submit: controller_pb2.Submit, talk: Conversation) -> None:
    """Answer nothing."""


async def test_a_gateway_without_controller_listens_but_does_not_serve() -> None:
    absent = FakeController([])
    absent.address = "127.0.0.1:9"
    async with running(absent) as gateway:
        await gateway.until_health(NOT_SERVING)
        with pytest.raises(UnavailableError, match="not connected to the controller") as caught:
            await gateway.client.list_models()
        assert caught.value.retry_after_s is not None
        with pytest.raises(UnavailableError):
            await gateway.client.generate("chat", "x").text()


async def test_a_gateway_serves_once_the_controller_comes(controller: FakeController) -> None:
    address = controller.address
    await controller.stop()
    async with running(controller) as gateway:
        await gateway.until_health(NOT_SERVING)
        await controller.start(address)
        await gateway.until_health(SERVING)
        assert (await gateway.client.get_model("chat")).name == "chat"


async def test_the_gateway_introduces_itself_first_and_keeps_its_name(gateway: Gateway) -> None:
    [first] = gateway.controller.conversations
    first.hang_up()
    await gateway.controller.until(
        lambda: gateway.controller.conversations and gateway.controller.conversations[0] is not first
    )
    assert gateway.controller.conversations[0].gateway_id == first.gateway_id
    assert first.gateway_id.startswith("gateway-")


@pytest.mark.parametrize("way", ["hang up", "stop"])
async def test_a_lost_controller_fails_what_is_under_way_and_is_found_again(gateway: Gateway, way: str) -> None:
    controller = gateway.controller
    controller.script = silence
    generation = gateway.client.generate("bare", [5])
    events = aiter(generation.events())
    await anext(events)  # started
    inference = asyncio.ensure_future(gateway.client.embed("bare", [[5]]))
    await controller.until(lambda: len(controller.submits) == 2)
    if way == "hang up":
        controller.conversations[0].hang_up()
    else:
        await controller.stop()
    with pytest.raises(UnavailableError, match="lost the controller") as caught:
        await anext(events)
    assert caught.value.retry_after_s == 1.0
    with pytest.raises(UnavailableError, match="lost the controller"):
        await inference
    if way == "stop":
        await gateway.until_health(NOT_SERVING)
        await controller.start(controller.address)
    controller.script = controller.play
    await gateway.until_health(SERVING)
    assert (await gateway.client.embed("bare", [[5]])).embeddings == ((5.0, 1.0, 5.0),)


async def test_new_models_are_known_at_once_and_gone_ones_forgotten(gateway: Gateway) -> None:
    [extra] = [model for model in all_models() if model.info.name == "bare"]
    extra.info.name = "newcomer"
    gateway.controller.models = {"newcomer": extra}
    await gateway.tell_catalogue()
    assert [model.name for model in await gateway.client.list_models()] == ["newcomer"]


async def test_a_model_whose_group_has_formed_is_served(gateway: Gateway) -> None:
    gateway.controller.models["forming"].num_groups = 1
    await gateway.tell_catalogue()
    reply = gateway.client.generate("forming", [5], max_tokens=1)
    assert [event async for event in reply.events()]


async def test_events_of_unknown_requests_and_unknown_kinds_are_ignored(gateway: Gateway) -> None:
    [talk] = gateway.controller.conversations
    talk.tokens("nobody", [1, 2])
    talk.finish("nobody")
    talk.send(controller_pb2.ConnectResponse())
    assert (await gateway.client.embed("bare", [[5]])).usage.prompt_tokens == 1


async def test_a_controller_that_speaks_of_unknown_models_is_left_and_tried_again(gateway: Gateway) -> None:
    [talk] = gateway.controller.conversations
    gateway.controller.script = silence
    inference = asyncio.ensure_future(gateway.client.embed("bare", [[5]], request_id="odd"))
    await gateway.controller.until(lambda: gateway.controller.submits)
    odd = controller_pb2.Catalogue.Entry(model=model_info("odd", default_pooling=99), num_groups=1)
    talk.send(controller_pb2.ConnectResponse(catalogue=controller_pb2.Catalogue(entries=[odd])))
    with pytest.raises(UnavailableError, match="lost the controller"):
        await inference
    await gateway.controller.until(lambda: talk not in gateway.controller.conversations)
    await gateway.until_health(SERVING)


ODD_TOKENS = {
    "an unknown end": {"finish_reason": 99},
    "a gap": {"offset": 5, "token_ids": [5]},
    "an unknown sample": {"sample": 7, "token_ids": [5]},
}


@pytest.mark.parametrize("case", ODD_TOKENS)
@pytest.mark.parametrize("together", [False, True])
async def test_odd_tokens_fail_their_own_request_alone(gateway: Gateway, case: str, together: bool) -> None:
    """Whether they come alone, or in one message with those of others."""
    gateway.controller.script = silence
    streams = {name: gateway.client.generate("bare", [5], request_id=name) for name in ("one", "odd", "two")}
    reading = {name: asyncio.ensure_future(all_tokens(stream)) for name, stream in streams.items()}
    await gateway.controller.until(lambda: len(gateway.controller.submits) == 3)
    step = [
        controller_pb2.SampleTokens(request_id="one", token_ids=[7, 8], finish_reason=types_pb2.FINISH_REASON_LENGTH),
        controller_pb2.SampleTokens(request_id="odd", **ODD_TOKENS[case]),
        controller_pb2.SampleTokens(request_id="nobody", token_ids=[6]),
        controller_pb2.SampleTokens(request_id="two", token_ids=[9], finish_reason=types_pb2.FINISH_REASON_LENGTH),
    ]
    [talk] = gateway.controller.conversations
    if together:
        talk.send(controller_pb2.ConnectResponse(step=controller_pb2.StepTokens(tokens=step)))
    else:
        for tokens in step:
            talk.send(controller_pb2.ConnectResponse(tokens=tokens))
    talk.finish("one")
    talk.finish("two")
    assert (await reading["one"], await reading["two"]) == ([7, 8], [9])
    with pytest.raises(LigerError) as caught:
        await reading["odd"]
    assert caught.value.reason == "INTERNAL"
    await gateway.controller.until(lambda: gateway.controller.cancels)
    assert [cancel.request_id for cancel in gateway.controller.cancels] == ["odd"]


async def test_tokens_in_columns_reach_their_samples_before_what_parts_tell(gateway: Gateway) -> None:
    gateway.controller.script = silence
    both = gateway.client.generate("bare", [5], request_id="both", n=2)
    reading = asyncio.ensure_future(tokens_by_sample(both))
    await gateway.controller.until(lambda: gateway.controller.submits)
    first = gateway.controller.submits[0].first_stream
    last = [
        controller_pb2.SampleTokens(
            request_id="both", sample=sample, offset=2, token_ids=[9], finish_reason=types_pb2.FINISH_REASON_LENGTH
        )
        for sample in (0, 1)
    ]
    [talk] = gateway.controller.conversations
    step = controller_pb2.StepTokens(
        streams=[first + 1, first, 2**40, first, first + 1],
        offsets=[0, 0, 7, 1, 1],
        token_ids=[21, 11, 5, 12, 22],
        tokens=last,
    )
    talk.send(controller_pb2.ConnectResponse(step=step))
    talk.finish("both")
    assert await reading == {0: [11, 12, 9], 1: [21, 22, 9]}


async def test_streams_are_never_numbered_alike_and_columns_of_those_that_are_over_reach_nobody(
    gateway: Gateway,
) -> None:
    await all_tokens(gateway.client.generate("bare", [5], request_id="over", n=3, max_tokens=2))
    gateway.controller.script = silence
    new = asyncio.ensure_future(all_tokens(gateway.client.generate("bare", [5], request_id="new")))
    await gateway.controller.until(lambda: len(gateway.controller.submits) == 2)
    over, fresh = (submit.first_stream for submit in gateway.controller.submits)
    assert fresh >= over + 3
    [talk] = gateway.controller.conversations
    step = controller_pb2.StepTokens(streams=[over, over + 2, fresh], offsets=[0, 0, 0], token_ids=[1, 2, 3])
    talk.send(controller_pb2.ConnectResponse(step=step))
    talk.tokens("new", [4], offset=1, reason=LENGTH)
    talk.finish("new")
    assert await new == [3, 4]


async def test_a_gap_in_columns_fails_its_own_request_alone(gateway: Gateway) -> None:
    gateway.controller.script = silence
    reading = {
        name: asyncio.ensure_future(all_tokens(gateway.client.generate("bare", [5], request_id=name)))
        for name in ("odd", "good")
    }
    await gateway.controller.until(lambda: len(gateway.controller.submits) == 2)
    streams = {submit.request_id: submit.first_stream for submit in gateway.controller.submits}
    [talk] = gateway.controller.conversations
    step = controller_pb2.StepTokens(streams=[streams["odd"], streams["good"]], offsets=[3, 0], token_ids=[7, 8])
    talk.send(controller_pb2.ConnectResponse(step=step))
    talk.tokens("good", [9], offset=1, reason=LENGTH)
    talk.finish("good")
    assert await reading["good"] == [8, 9]
    with pytest.raises(LigerError) as caught:
        await reading["odd"]
    assert caught.value.reason == "INTERNAL"
    await gateway.controller.until(lambda: gateway.controller.cancels)
    assert [cancel.request_id for cancel in gateway.controller.cancels] == ["odd"]


async def test_columns_that_are_not_equally_long_end_the_conversation_which_begins_anew(gateway: Gateway) -> None:
    gateway.controller.script = silence
    reading = asyncio.ensure_future(all_tokens(gateway.client.generate("bare", [5], request_id="r")))
    await gateway.controller.until(lambda: gateway.controller.submits)
    [talk] = gateway.controller.conversations
    step = controller_pb2.StepTokens(streams=[1, 2], offsets=[0], token_ids=[7, 8])
    talk.send(controller_pb2.ConnectResponse(step=step))
    with pytest.raises(UnavailableError, match="lost the controller"):
        await reading
    await gateway.controller.until(lambda: talk not in gateway.controller.conversations)
    await gateway.until_health(SERVING)


async def tokens_by_sample(stream: AsyncGenerateStream) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    async for event in stream.events():
        if isinstance(event, Delta):
            found.setdefault(event.index, []).extend(event.token_ids)
    return found


async def all_tokens(stream: AsyncGenerateStream) -> list[int]:
    return [token async for event in stream.events() if isinstance(event, Delta) for token in event.token_ids]


async def test_draining_refuses_new_calls_and_finishes_those_under_way(gateway: Gateway) -> None:
    finish = asyncio.Event()

    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        await finish.wait()
        await gateway.controller.play(submit, talk)

    gateway.controller.script = script
    events = aiter(gateway.client.generate("bare", [5, 6], max_tokens=2).events())
    await anext(events)
    draining = asyncio.ensure_future(gateway.service.drain())
    await gateway.until_health(NOT_SERVING)
    with pytest.raises(UnavailableError, match="stopping"):
        await gateway.client.tokenize("chat", "x")
    assert not draining.done()
    finish.set()
    tokens = [token async for event in events if hasattr(event, "token_ids") for token in event.token_ids]
    assert tokens == [5, 6]
    await draining


async def test_a_catalogue_during_the_drain_does_not_make_it_serve_again(gateway: Gateway) -> None:
    await gateway.service.drain()
    gateway.controller.conversations[0].hang_up()
    await gateway.controller.until(lambda: not gateway.controller.conversations)
    await gateway.controller.until(lambda: gateway.controller.conversations)
    await gateway.until_health(NOT_SERVING)


async def test_stopping_ends_calls_under_way(controller: FakeController) -> None:
    controller.script = silence
    async with running(controller) as gateway:
        await gateway.until_health(SERVING)
        call = gateway.stub.Generate(pb.GenerateRequest(model="bare", token_ids={"ids": [5]}))
        await call.read()
        await gateway.service.stop()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def test_waits_between_attempts_grow_to_a_bound() -> None:
    delays = list(islice(reconnect_delays(), 12))
    assert FIRST_DELAY_S / 2 <= delays[0] <= FIRST_DELAY_S
    assert all(LONGEST_DELAY_S / 2 <= delay <= LONGEST_DELAY_S for delay in delays[6:])
