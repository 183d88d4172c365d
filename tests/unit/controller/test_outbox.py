import asyncio

from hypothesis import given
from hypothesis import strategies as st

from controller import outbox as module
from controller.codec.gateways import broken
from controller.core.events import OutputMade, RequestBroken, StepMade, Stream, TokensMade
from controller.outbox import Outbox, output_numbers
from liger.domain import FinishReason
from liger.errors import LigerError
from liger.schedule import ItemResult, Logprob


def made(request_id, *token_ids, sample=0, offset=0, **rest):
    return TokensMade(request_id=request_id, sample=sample, offset=offset, token_ids=token_ids, **rest)


def columns(*tokens):
    """Return one token each of streams: (number, offset, token)."""
    streams = [Stream(1, number, f"request {number}", 0) for number, _, _ in tokens]
    return StepMade(streams, [offset for _, offset, _ in tokens], [token for _, _, token in tokens])


def rows(message):
    step = message.step
    return list(zip(step.streams, step.offsets, step.token_ids, strict=True))


def end_of(request_id):
    return broken(RequestBroken(request_id=request_id, error=LigerError("over")))


def taken(outbox):
    """Take all that waits."""

    async def take():
        messages = []
        while outbox._waiting:
            messages.append(await outbox.get())
        return messages

    return asyncio.run(take())


def parts(message):
    return [(part.request_id, part.sample, part.offset, list(part.token_ids)) for part in message.step.tokens]


def test_what_one_window_gives_is_one_message():
    outbox = Outbox()
    outbox.put_tokens(made("a", 1))
    outbox.put_tokens(made("b", 2, offset=7))
    outbox.put_tokens(made("b", 3, sample=1))
    (message,) = taken(outbox)
    assert parts(message) == [("a", 0, 0, [1]), ("b", 0, 7, [2]), ("b", 1, 0, [3])]


def test_windows_that_a_slow_gateway_has_not_read_become_one_message():
    outbox = Outbox()
    likelihoods = [Logprob(token_id=token, logprob=-1.0) for token in (1, 2)]
    outbox.put_tokens(made("a", 1, logprobs=likelihoods[:1], prompt_logprobs=tuple(likelihoods)))
    outbox.put_tokens(made("b", 9))
    outbox.put_tokens(made("a", 2, offset=1, logprobs=likelihoods[1:], finish_reason=FinishReason.LENGTH))
    (message,) = taken(outbox)
    assert parts(message) == [("a", 0, 0, [1, 2]), ("b", 0, 0, [9])]
    first, second = message.step.tokens
    assert [each.token_id for each in first.logprobs] == [1, 2]
    assert [each.token_id for each in first.prompt_logprobs] == [1, 2]
    assert first.finish_reason == FinishReason.LENGTH
    assert second.finish_reason == 0


def test_samples_that_go_on_share_columns_over_windows():
    outbox = Outbox()
    outbox.put_step(columns((2**63 + 9, 4, 7), (3, 0, 8)))
    outbox.put_step(columns((3, 1, 9)))
    (message,) = taken(outbox)
    assert rows(message) == [(2**63 + 9, 4, 7), (3, 0, 8), (3, 1, 9)]


def test_columns_never_join_a_message_in_which_samples_have_parts():
    """They come before parts there: a sample's next token would be read before the one that its part holds."""
    outbox = Outbox()
    outbox.put_step(columns((3, 4, 7)))
    outbox.put_tokens(made("request 3", 8, offset=5))
    outbox.put_step(columns((3, 6, 9)))
    first, second = taken(outbox)
    assert (rows(first), parts(first)) == ([(3, 4, 7)], [("request 3", 0, 5, [8])])
    assert (rows(second), parts(second)) == ([(3, 6, 9)], [])


def test_columns_that_nobody_reads_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_WEIGHT", 1000)
    outbox = Outbox()
    for number in range(1000):
        outbox.put_step(columns((3, number, 1)))
    assert outbox.is_overfull
    (message,) = taken(outbox)
    assert len(message.step.streams) < 100


def test_what_was_read_is_not_added_to():
    outbox = Outbox()
    outbox.put_tokens(made("a", 1))
    (first,) = taken(outbox)
    outbox.put_tokens(made("a", 2, offset=1))
    (second,) = taken(outbox)
    assert parts(first) == [("a", 0, 0, [1])]
    assert parts(second) == [("a", 0, 1, [2])]


def test_a_requests_end_comes_after_its_tokens_and_parts_no_others():
    outbox = Outbox()
    outbox.put_tokens(made("a", 1))
    outbox.put(end_of("a"))
    outbox.put_tokens(made("b", 2))
    step, end = taken(outbox)
    assert parts(step) == [("a", 0, 0, [1]), ("b", 0, 0, [2])]
    assert end.failed.request_id == "a"


def test_a_new_request_is_kept_apart_from_an_older_one_with_its_id():
    outbox = Outbox()
    outbox.put_tokens(made("a", 1))
    outbox.put(end_of("a"))
    outbox.seal()
    outbox.put_tokens(made("a", 2))
    old, end, new = taken(outbox)
    assert (parts(old), end.failed.request_id, parts(new)) == ([("a", 0, 0, [1])], "a", [("a", 0, 0, [2])])


def test_a_message_of_tokens_does_not_grow_without_end(monkeypatch):
    monkeypatch.setattr(module, "MAX_STEP_WEIGHT", 100)
    outbox = Outbox()
    for offset in range(0, 1000, 10):
        outbox.put_tokens(made("a", *range(10), offset=offset))
    messages = taken(outbox)
    assert max(len(message.step.tokens[0].token_ids) for message in messages) <= 50
    assert [token for message in messages for token in message.step.tokens[0].token_ids] == [*range(10)] * 100


def test_what_nobody_reads_is_bounded_and_told(monkeypatch):
    monkeypatch.setattr(module, "MAX_WEIGHT", 1000)
    outbox = Outbox()
    for _ in range(100):
        outbox.put_tokens(made("a", *range(30)))
        outbox.put(end_of("b"), 5)
    assert outbox.is_overfull
    assert outbox._weight <= 1000 + 16 + 30
    taken(outbox)
    outbox.put_tokens(made("a", 1))
    assert outbox.is_overfull, "what was lost stays lost"


def test_what_is_read_in_time_never_overfills(monkeypatch):
    monkeypatch.setattr(module, "MAX_WEIGHT", 1000)
    outbox = Outbox()
    for _ in range(100):
        outbox.put_tokens(made("a", *range(30)))
        outbox.put(end_of("b"), 500)
        taken(outbox)
    assert not outbox.is_overfull
    assert outbox._weight == 0


def test_outputs_weigh_what_they_hold():
    rivals = Logprob(token_id=1, logprob=-1.0, top_token_ids=(1, 2), top_logprobs=(-1.0, -2.0))
    result = ItemResult(values=(0.5,) * 384, logprobs=(rivals,))
    assert output_numbers(OutputMade(request_id="a", item=0, result=result)) == 384 + 6


async def test_a_closed_outbox_gives_nothing_and_wakes_who_waits():
    outbox = Outbox()
    waiting = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    outbox.close()
    assert await waiting is None
    outbox.put_tokens(made("a", 1))
    assert await outbox.get() is None


async def test_a_message_is_waited_for():
    outbox = Outbox()
    waiting = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.put_tokens(made("a", 1))
    assert parts(await waiting) == [("a", 0, 0, [1])]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["tokens", "end", "read"]))))
def test_every_requests_events_keep_their_order(doings):
    """Ids come again after their end, as a gateway may use them."""
    outbox, said, heard = Outbox(), {}, {}
    lengths = dict.fromkeys("abc", 0)

    def hear(messages):
        for message in messages:
            if message.HasField("failed"):
                heard.setdefault(message.failed.request_id, []).append("end")
            for part in message.step.tokens:
                events = [part.offset + place for place, _ in enumerate(part.token_ids)]
                assert list(part.token_ids) == events, "a token stands at its place"
                heard.setdefault(part.request_id, []).extend(events)

    for request_id, doing in doings:
        match doing:
            case "tokens":
                outbox.put_tokens(made(request_id, lengths[request_id], offset=lengths[request_id]))
                said.setdefault(request_id, []).append(lengths[request_id])
                lengths[request_id] += 1
            case "end":
                outbox.put(end_of(request_id))
                said.setdefault(request_id, []).append("end")
                lengths[request_id] = 0
                outbox.seal()  # as the submit of the next request of this name does
            case "read":
                hear(taken(outbox))
    hear(taken(outbox))
    assert heard == said
