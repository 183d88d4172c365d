from dataclasses import replace

import pytest

from controller.codec.gateways import from_event, to_request
from controller.core.events import RequestAccount, RequestBroken, RequestEnded, TokensMade
from controller.gateways import GatewaySession
from liger.domain import Fence, FinishReason, ScoreOutput
from liger.errors import DeadlineError, InvalidRequestError
from liger.schedule import Logprob
from liger.v1 import controller_pb2, types_pb2
from tests.support.submits import encode_work, submit

FENCE = Fence(leader_term=1, group="g", epoch=3)


class FakeGroup:
    """Notes what it is asked; `say` brings an event to the session."""

    def __init__(self):
        self.asked = []
        self.sinks = {}

    def submit(self, request, sink):
        self.sinks[request.request_id] = sink
        return self

    def cancel(self, *asked):
        self.asked.append(("cancel", *asked))

    def acknowledge(self, *asked):
        self.asked.append(("acknowledge", *asked))

    def say(self, event):
        self.sinks[event.request_id](event, FENCE, ("w0",))


@pytest.fixture
def group():
    return FakeGroup()


@pytest.fixture
def session(group):
    return GatewaySession("gw", group)


def take(session, **message):
    session.take(controller_pb2.ConnectRequest(**message))


def acknowledgements(*told):
    """Return the message of (request, sample, tokens) each."""
    each = [
        controller_pb2.Acknowledge(request_id=name, sample=sample, num_tokens=count) for name, sample, count in told
    ]
    return controller_pb2.Acknowledgements(of=each)


def test_acknowledgements_reach_the_groups_of_their_requests(session, group):
    take(session, submit=submit("r"))
    take(session, submit=submit("q"))
    take(session, acknowledgements=acknowledgements(("r", 2, 17), ("nobody's", 0, 5), ("q", 0, 3)))
    assert group.asked == [("acknowledge", "r", 2, 17), ("acknowledge", "q", 0, 3)]


@pytest.mark.parametrize("request_id", ["never", "over", ""])
def test_an_acknowledgement_of_no_request_under_way_is_ignored(session, group, request_id):
    take(session, submit=submit("over"))
    group.say(RequestBroken(request_id="over", error=DeadlineError("late")))
    take(session, acknowledgements=acknowledgements((request_id, 0, 2**32 - 1)))
    assert group.asked == []


def test_a_gateway_that_leaves_cancels_what_it_had_under_way(session, group):
    take(session, submit=submit("r"))
    session.close()
    assert group.asked == [("cancel", "r", None, FinishReason.CANCELLED)]


async def test_tokens_come_before_the_end_of_their_request(session, group):
    take(session, submit=submit("a"))
    take(session, submit=submit("b"))
    for request_id in "ab":
        group.say(TokensMade(request_id=request_id, sample=0, offset=0, token_ids=(5,)))
    group.say(RequestBroken(request_id="a", error=DeadlineError("late")))
    messages = session.messages()
    step, end = await anext(messages), await anext(messages)
    assert [(part.request_id, list(part.token_ids)) for part in step.step.tokens] == [("a", [5]), ("b", [5])]
    assert end.failed.request_id == "a"


async def test_an_id_that_comes_again_is_told_apart_from_its_older_request(session, group):
    take(session, submit=submit("a"))
    group.say(TokensMade(request_id="a", sample=0, offset=0, token_ids=(1,)))
    group.say(RequestBroken(request_id="a", error=DeadlineError("late")))
    take(session, submit=submit("a"))
    group.say(TokensMade(request_id="a", sample=0, offset=0, token_ids=(2,)))
    messages = session.messages()
    kinds = [(await anext(messages)).WhichOneof("message") for _ in range(3)]
    assert kinds == ["step", "failed", "step"]


async def test_likelihoods_of_output_and_prompt_reach_the_gateway(session, group):
    likelihoods = tuple(Logprob(token_id=token, logprob=-float(token)) for token in (1, 2, 3))
    take(session, submit=submit("r"))
    group.say(
        TokensMade(
            request_id="r",
            sample=0,
            offset=0,
            token_ids=(1,),
            logprobs=likelihoods[:1],
            prompt_logprobs=likelihoods[1:],
        )
    )
    (part,) = (await anext(session.messages())).step.tokens
    assert [each.logprob for each in part.logprobs] == [-1.0]
    assert [each.logprob for each in part.prompt_logprobs] == [-2.0, -3.0]


def test_what_the_prefix_cache_saved_is_told_at_the_end():
    account = RequestAccount(
        num_prompt_tokens=40,
        num_completion_tokens=2,
        queue_ns=1,
        prefill_ns=2,
        decode_ns=3,
        compute_ns=4,
        exposed_ns=5,
        depth=1,
        num_cached_tokens=32,
        saved_prefill_ns=7_000,
    )
    finished = from_event(RequestEnded(request_id="r", account=account), FENCE, ("w0",)).finished
    assert (finished.usage.prompt_tokens, finished.usage.cached_tokens) == (40, 32)
    assert finished.timings.saved_prefill_ns == 7_000
    plain = replace(account, num_cached_tokens=0, saved_prefill_ns=0)
    assert from_event(RequestEnded(request_id="r", account=plain), FENCE, ()).finished.usage.cached_tokens == 0


def encode(task, **head):
    item = encode_work(**head)
    item.items[0].score_from = 1
    return controller_pb2.Submit(request_id="r", model="m", task=task, encode=item)


def test_labels_may_be_weighed_by_their_likelihood():
    request = to_request(encode(types_pb2.TASK_CLASSIFY, score=controller_pb2.ScoreHead()), 0)
    assert [type(item.output) for item in request.work.items] == [ScoreOutput]


@pytest.mark.parametrize("task", [types_pb2.TASK_RERANK, types_pb2.TASK_EMBED, types_pb2.TASK_GENERATE])
def test_scores_are_no_work_of_other_tasks(task):
    with pytest.raises(InvalidRequestError):
        to_request(encode(task, score=controller_pb2.ScoreHead()), 0)
