import asyncio
from types import SimpleNamespace

import pytest

from bench.link.load import LoadGenerator
from bench.link.work import Load, draw_calls
from liger.errors import OverloadedError

TIMINGS = SimpleNamespace(compute_ns=5, exposed_communication_ns=2, depth=3)


class FakeClient:
    """A gateway that answers when it is let, and counts."""

    def __init__(self, refuses: int = 0) -> None:
        self.under_way = self.most_under_way = self.asked = 0
        self.refuses = refuses
        self.gate = asyncio.Event()
        self.awaited = (0, asyncio.Event())  # how many must be under way, and whether they are

    async def embed(self, model, inputs, *, timeout_s):
        self.asked += 1
        if self.asked <= self.refuses:
            raise OverloadedError("full")
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self.under_way == self.awaited[0]:
            self.awaited[1].set()
        await self.gate.wait()
        await asyncio.sleep(0)
        self.under_way -= 1
        return SimpleNamespace(timings=TIMINGS)

    def generate(self, model, prompt, *, max_tokens, ignore_eos, temperature, timeout_s):
        assert ignore_eos
        assert temperature == 0

        async def events():
            for _ in range(max_tokens):
                yield object()

        finished = {0: SimpleNamespace(num_tokens=max_tokens)}
        return SimpleNamespace(events=events, timings=TIMINGS, finished=finished)


async def test_calls_are_sent_at_their_times_whether_or_not_others_were_answered():
    client = FakeClient()
    client.awaited = (3, asyncio.Event())
    sending = asyncio.create_task(
        LoadGenerator(client, "m").send_at(draw_calls(Load.DISCRIMINATIVE, 5, "a"), [0.0, 0.001, 0.002])
    )
    await client.awaited[1].wait()
    client.gate.set()
    answers = await sending
    assert [answer.scheduled_s for answer in answers] == [0.0, 0.001, 0.002]
    assert all(answer.latency_s > 0 and not answer.error for answer in answers)
    assert [(answer.compute_ns, answer.exposed_ns, answer.depth) for answer in answers] == [(5, 2, 3)] * 3


async def test_constant_work_keeps_so_many_calls_under_way():
    client = FakeClient()
    client.gate.set()
    answers = await LoadGenerator(client, "m").keep_busy(draw_calls(Load.DISCRIMINATIVE, 20, "a"), 4)
    assert len(answers) == client.asked == 20
    assert client.most_under_way == 4


async def test_a_refused_call_is_an_answer_without_tokens():
    client = FakeClient(refuses=1)
    client.gate.set()
    answers = await LoadGenerator(client, "m").keep_busy(draw_calls(Load.DISCRIMINATIVE, 3, "a"), 1)
    assert [(answer.error, answer.num_tokens > 0) for answer in answers] == [("full", False), ("", True), ("", True)]


async def test_a_generation_is_over_with_its_last_token():
    calls = draw_calls(Load.GENERATIVE, 2, "a")
    answers = await LoadGenerator(FakeClient(), "m").keep_busy(calls, 1)
    assert [answer.num_tokens for answer in answers] == [call.num_tokens for call in calls]


async def test_generations_of_another_length_are_no_measurement():
    client = FakeClient()
    client.generate = lambda *_, **__: SimpleNamespace(
        events=_none, timings=TIMINGS, finished={0: SimpleNamespace(num_tokens=1)}
    )
    with pytest.raises(ExceptionGroup) as raised:
        await LoadGenerator(client, "m").keep_busy(draw_calls(Load.GENERATIVE, 1, "a"), 1)
    assert raised.group_contains(AssertionError, match="same number of tokens")


async def _none():
    return
    yield
