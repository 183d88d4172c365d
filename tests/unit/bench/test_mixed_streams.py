import asyncio
import itertools
from types import SimpleNamespace

import pytest

from bench.link.work import Call
from bench.mixed.streams import Streams
from liger.client.results import Delta
from liger.errors import OverloadedError

CALLS = (Call(token_ids=(1, 2), num_new_tokens=3),)


class FakeClient:
    """A gateway whose streams give what they are told, then end, fail or stay open."""

    def __init__(self, deltas, *, stays_open=False, error=None):
        self.deltas, self.stays_open, self.error = deltas, stays_open, error
        self.num_asked = self.num_closed = 0
        self.is_open = asyncio.Event()  # a stream has given all it has

    def generate(self, model, prompt, *, max_tokens, ignore_eos, temperature, timeout_s):
        assert ignore_eos
        self.num_asked += 1

        async def events():
            try:
                for token_ids in self.deltas:
                    yield Delta(index=0, text="", token_ids=token_ids, logprobs=())
                if self.error is not None:
                    raise self.error
                self.is_open.set()
                if self.stays_open:
                    await asyncio.Event().wait()
            finally:
                self.num_closed += 1

        return SimpleNamespace(events=events)


async def test_a_stream_notes_its_first_token_and_leaves_out_messages_without_tokens():
    client = FakeClient([(), (5,), (), (6, 7)])
    arrivals = await Streams(client, "m").read([iter(CALLS)], 60.0)
    assert [(each.num_tokens, each.is_first) for each in arrivals] == [(1, True), (2, False)]
    assert all(each.waited_s >= 0 for each in arrivals)


async def test_one_generation_follows_the_other_in_every_stream():
    client = FakeClient([(5,)])
    arrivals = await Streams(client, "m").read([iter(CALLS * 3), iter(CALLS * 2)], 60.0)
    assert client.num_asked == 5
    assert [each.is_first for each in arrivals] == [True] * 5


async def test_streams_are_cut_off_when_their_time_is_over():
    client = FakeClient([(5,)], stays_open=True)
    arrivals = await Streams(client, "m").read([itertools.repeat(CALLS[0]) for _ in range(3)], 0.05)
    assert len(arrivals) == 3
    assert client.num_closed == 3


async def test_a_generation_that_fails_ends_the_others():
    failing = FakeClient([(5,)], error=OverloadedError("full"))
    with pytest.raises(OverloadedError, match="full"):
        await Streams(failing, "m").read([itertools.repeat(CALLS[0]) for _ in range(2)], 60.0)
    assert failing.num_closed == failing.num_asked


async def test_an_interrupt_is_not_taken_for_the_end_of_the_time():
    client = FakeClient([], stays_open=True)
    reading = asyncio.create_task(Streams(client, "m").read([iter(CALLS)], 60.0))
    await client.is_open.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert client.num_closed == 1
