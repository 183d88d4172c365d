"""What waits for the controller: in order, bounded, and never sent once given up."""

from collections.abc import AsyncIterator

import pytest

from gateway.outgoing import MAX_ACKNOWLEDGED, MAX_WAITING_SUBMITS, Outgoing
from liger.domain import FinishReason
from liger.errors import OverloadedError
from liger.v1 import controller_pb2 as pb


def submit(request_id: str) -> pb.Submit:
    return pb.Submit(request_id=request_id)


async def begun(outgoing: Outgoing) -> AsyncIterator[pb.ConnectRequest]:
    messages = aiter(outgoing.messages())
    assert (await anext(messages)).hello.gateway_id == "me"
    return messages


async def test_hello_comes_first_and_submits_keep_their_order() -> None:
    outgoing = Outgoing("me")
    for name in "abc":
        outgoing.submit(submit(name))
    messages = await begun(outgoing)
    assert [(await anext(messages)).submit.request_id for _ in range(3)] == ["a", "b", "c"]


async def test_cancels_overtake_submits_of_others() -> None:
    outgoing = Outgoing("me")
    messages = await begun(outgoing)
    outgoing.submit(submit("new"))
    outgoing.cancel("old", 2, FinishReason.STOP)
    first, second = await anext(messages), await anext(messages)
    assert first.cancel == pb.Cancel(request_id="old", sample=2, reason=1)
    assert second.submit.request_id == "new"


async def test_a_request_given_up_before_it_was_sent_is_not_sent() -> None:
    outgoing = Outgoing("me")
    outgoing.submit(submit("a"))
    outgoing.cancel("a", None, FinishReason.CANCELLED)
    outgoing.submit(submit("b"))
    messages = await begun(outgoing)
    assert (await anext(messages)).submit.request_id == "b"


async def test_a_request_given_up_after_it_was_sent_is_cancelled() -> None:
    outgoing = Outgoing("me")
    outgoing.submit(submit("a"))
    messages = await begun(outgoing)
    await anext(messages)
    outgoing.cancel("a", None, FinishReason.CANCELLED)
    message = await anext(messages)
    assert message.cancel.request_id == "a"
    assert not message.cancel.HasField("sample")


async def test_more_requests_than_the_controller_takes_are_refused() -> None:
    outgoing = Outgoing("me")
    for number in range(MAX_WAITING_SUBMITS):
        outgoing.submit(submit(str(number)))
    with pytest.raises(OverloadedError, match="wait to be sent") as caught:
        outgoing.submit(submit("one more"))
    assert caught.value.retry_after_s == 1.0


async def test_acknowledgements_go_after_cancels_and_before_submits() -> None:
    outgoing = Outgoing("me")
    messages = await begun(outgoing)
    outgoing.submit(submit("new"))
    outgoing.acknowledge("running", 1, 64)
    outgoing.cancel("old", None, FinishReason.CANCELLED)
    kinds = [(await anext(messages)).WhichOneof("message") for _ in range(3)]
    assert kinds == ["cancel", "acknowledgements", "submit"]


async def test_acknowledgements_share_a_message_and_of_a_samples_the_last_is_sent() -> None:
    outgoing = Outgoing("me")
    messages = await begun(outgoing)
    for num_tokens in (64, 128, 192):
        outgoing.acknowledge("a", 0, num_tokens)
    outgoing.acknowledge("a", 1, 70)
    outgoing.submit(submit("b"))
    told, asked = await anext(messages), await anext(messages)
    assert list(told.acknowledgements.of) == [
        pb.Acknowledge(request_id="a", sample=0, num_tokens=192),
        pb.Acknowledge(request_id="a", sample=1, num_tokens=70),
    ]
    assert asked.submit.request_id == "b"


async def test_a_message_holds_no_more_acknowledgements_than_it_may() -> None:
    outgoing = Outgoing("me")
    messages = await begun(outgoing)
    for number in range(MAX_ACKNOWLEDGED + 1):
        outgoing.acknowledge(str(number), 0, 64)
    counts = [len((await anext(messages)).acknowledgements.of) for _ in range(2)]
    assert counts == [MAX_ACKNOWLEDGED, 1]
