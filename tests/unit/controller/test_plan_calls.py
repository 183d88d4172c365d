import asyncio
from dataclasses import replace

import grpc
import pytest

from liger.cluster_views import AskedBatch, fetch_plan, fetch_profile, fetch_timeline
from liger.domain import BatchKind
from liger.errors import InvalidRequestError, UnavailableError
from liger.rpc.model_card import from_card
from liger.v1 import controller_pb2
from liger.views import PlannedBatch, ProfileView
from tests.support.in_process import CARD
from tests.support.plans import small_profile, two_batches

ENCODE, PREFILL, DECODE = BatchKind.ENCODE, BatchKind.PREFILL, BatchKind.DECODE


@pytest.fixture
def waiting_group(stack):
    """Register one rank of two, so that the group is there and waits; return the controller's own group."""

    async def register(name="g", card=CARD):
        request = controller_pb2.RegisterRequest(
            worker_id=name,
            address="127.0.0.1:1",
            group=name,
            model=from_card(card),
            tp_size=2,
            pp_size=1,
            rendezvous_endpoint="127.0.0.1:1",
        )
        await stack.stub.Register(request, timeout=5)
        await stack.until(controller_pb2.GroupStatus.STATE_WAITING, name)
        return stack.service._groups.find(name)

    return register


@pytest.fixture
async def group(waiting_group):
    """Return a group that answers with fixed values; `asked` notes what is to be planned."""
    group = await waiting_group()
    group.asked = []
    group.explain = lambda batches, depth: group.asked.append((batches, depth)) or two_batches()
    group.profile = small_profile
    spans = two_batches().spans
    group.timeline.add(0, spans, max(each.end_ns for each in spans))
    return group


async def test_a_plan_comes_back_as_it_was_made(stack, group):
    found = await fetch_plan(stack.address, "g", [AskedBatch(kind=PREFILL, num_tokens=7, context=30)], 2)
    assert found == two_batches()
    assert group.asked == [((PlannedBatch(kind=PREFILL, num_tokens=7, context=30),), 2)]


async def test_a_batch_without_a_kind_does_what_the_model_is_for(stack, group):
    await fetch_plan(stack.address, "", [AskedBatch(num_tokens=7), AskedBatch(kind=DECODE, num_tokens=1)])
    group.model = replace(CARD, tasks=())
    await fetch_plan(stack.address, "", [AskedBatch(num_tokens=7)])
    assert [[batch.kind for batch in batches] for batches, _ in group.asked] == [[PREFILL, DECODE], [ENCODE]]


async def test_a_profile_comes_back_as_it_was_measured(stack, group):
    assert await fetch_profile(stack.address, "g") == small_profile()
    group.profile = ProfileView
    assert await fetch_profile(stack.address, "g") == ProfileView()


async def test_a_timeline_comes_back_by_begin(stack, group):
    found = await fetch_timeline(stack.address, "g", 60.0)
    assert found == two_batches().spans
    assert await fetch_timeline(stack.address, "g", 0.0005) == found[-1:]


def batch(**fields):
    return controller_pb2.ExplainPlanRequest.PlannedBatch(**({"num_tokens": 8} | fields))


@pytest.mark.parametrize(
    ("request_fields", "said"),
    [
        ({"batches": []}, "1 to 16 batches, not 0"),
        ({"batches": [batch()] * 17}, "1 to 16 batches, not 17"),
        ({"batches": [batch()] * 100_000}, "1 to 16 batches, not 100000"),
        ({"batches": [batch(num_tokens=0)]}, "1 to 1000000 tokens, not 0"),
        ({"batches": [batch(), batch(num_tokens=2**32 - 1)]}, "1 to 1000000 tokens, not 4294967295"),
        ({"batches": [batch(kind=PREFILL, context=1_000_001)]}, "context is at most 1000000"),
        ({"batches": [batch(kind=77)]}, "batch kind 77 is not known"),
        ({"batches": [batch(kind=-1)]}, "batch kind -1 is not known"),
        ({"batches": [batch(kind=ENCODE, context=1)]}, "has no context"),
        ({"batches": [batch()], "depth": 17}, "depth is at most 16"),
        ({"batches": [batch()], "group": "other"}, "there is no group 'other'; there are: g"),
    ],
)
async def test_a_plan_that_cannot_be_is_refused_and_says_why(stack, group, request_fields, said):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.stub.ExplainPlan(controller_pb2.ExplainPlanRequest(**request_fields), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in caught.value.details()
    assert group.asked == []


@pytest.mark.parametrize("last_s", [0.0, -1.0, float("nan"), float("inf"), -1e308])
async def test_a_time_that_cannot_be_is_refused(stack, group, last_s):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.stub.GetTimeline(controller_pb2.GetTimelineRequest(last_s=last_s), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "last_s is a positive number" in caught.value.details()


async def test_a_time_beyond_what_is_kept_gives_what_is_kept(stack, group):
    reply = await stack.stub.GetTimeline(controller_pb2.GetTimelineRequest(last_s=1e308), timeout=5)
    assert (reply.group, len(reply.spans)) == ("g", 7)


async def test_a_group_that_does_not_serve_plans_nothing_and_has_no_profile(stack, waiting_group):
    await waiting_group()
    with pytest.raises(UnavailableError, match="group g does not serve now"):
        await fetch_plan(stack.address, "g", [AskedBatch(num_tokens=1)])
    assert not (await stack.stub.GetProfile(controller_pb2.GetProfileRequest(), timeout=5)).HasField("table")
    assert await fetch_timeline(stack.address, "g", 1.0) == ()


async def test_where_several_groups_are_one_must_be_named(stack, waiting_group):
    with pytest.raises(UnavailableError, match="no worker has registered yet"):
        await fetch_profile(stack.address, "")
    await waiting_group("a")
    await waiting_group("b")
    with pytest.raises(InvalidRequestError, match="name one of the groups: a, b"):
        await fetch_profile(stack.address, "")


async def test_planning_does_not_hold_up_the_controller(stack, group):
    began, over = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def explain(batches, depth):
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(over.wait(), loop).result(30)
        return two_batches()

    group.explain = explain
    plan = asyncio.create_task(fetch_plan(stack.address, "g", [AskedBatch(num_tokens=1)], 1))
    async with asyncio.timeout(30):
        await began.wait()
        assert (await stack.group("g")).name == "g"
        over.set()
        assert await plan == two_batches()
