import pytest

from controller.core.plan import Topology, whole_forward
from controller.dispatcher import Dispatcher
from liger.digest import launch_digest, order_digest
from liger.domain import BatchKind
from liger.errors import GroupFailedError
from liger.schedule import Window, WindowOutcome, WindowTimings
from liger.v1 import worker_pb2
from tests.support.simulated_ranks import FENCE, FORWARDS

PATTERN = whole_forward(FORWARDS, Topology(), BatchKind.DECODE, 0).pattern


class FakeLink:
    def __init__(self, rank):
        self.rank = rank
        self.sent = []
        self.answers = []

    async def publish(self, requests):
        self.sent += requests

    async def outcomes(self):
        for answer in self.answers:
            yield answer


def window(number):
    digest = order_digest(PATTERN.id, (number,))
    return Window(fence=FENCE, number=number, pattern_id=PATTERN.id, batch_ids=(number,), order_digest=digest)


def answer(number, **changes):
    fields = {
        "fence": FENCE,
        "number": number,
        "launched_digest": order_digest(launch_digest(PATTERN.steps, 0), (number,)),
        "sampled_digest": 0,
        "timings": WindowTimings(batch_compute_ns=(1,), batch_exposed_ns=(0,)),
    }
    return WindowOutcome(**(fields | changes))


@pytest.fixture
def links():
    return [FakeLink(0), FakeLink(1)]


@pytest.fixture
def dispatcher(links):
    return Dispatcher(links, FENCE, Topology(tp_size=2))


async def test_a_window_is_made_to_bytes_once_for_all_ranks(dispatcher, links):
    await dispatcher.publish(PATTERN, window(1))
    await dispatcher.publish(PATTERN, window(2))
    kinds = [worker_pb2.ExecuteRequest.FromString(request).WhichOneof("message") for request in links[0].sent]
    assert kinds == ["pattern", "schedule", "schedule"], "a pattern goes out once"
    assert all(ours is theirs for ours, theirs in zip(links[0].sent, links[1].sent, strict=True))


async def test_a_window_is_done_when_every_rank_acknowledged_it(dispatcher, links):
    await dispatcher.publish(PATTERN, window(1))
    await dispatcher.publish(PATTERN, window(2))
    links[0].answers = [answer(1), answer(2)]
    await dispatcher.listen(links[0])
    assert dispatcher.take() is None
    links[1].answers = [answer(1)]
    await dispatcher.listen(links[1])
    assert dispatcher.take().outcome.number == 1
    assert dispatcher.take() is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (answer(3), "not due"),
        (answer(1, launched_digest=5), "another order"),
        (answer(1, timings=WindowTimings()), "timings that cannot be"),
    ],
)
async def test_an_acknowledgement_that_cannot_be_ends_the_epoch(dispatcher, links, given, reason):
    await dispatcher.publish(PATTERN, window(1))
    links[0].answers = [given]
    with pytest.raises(GroupFailedError, match=reason):
        await dispatcher.listen(links[0])


async def test_ranks_that_drew_different_tokens_end_the_epoch(dispatcher, links):
    await dispatcher.publish(PATTERN, window(1))
    links[0].answers, links[1].answers = [answer(1)], [answer(1, sampled_digest=1)]
    await dispatcher.listen(links[0])
    with pytest.raises(GroupFailedError, match="different tokens"):
        await dispatcher.listen(links[1])
