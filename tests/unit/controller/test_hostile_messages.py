from dataclasses import replace

import grpc
import pytest

from liger.schedule import StepSpan
from liger.v1 import controller_pb2, types_pb2
from tests.support.in_process import CARD, SimulatedEngine
from tests.support.submits import MEAN, encode_work, failure, submit

SERVING = controller_pb2.GroupStatus.STATE_SERVING
WAITING = controller_pb2.GroupStatus.STATE_WAITING
DRAINING = controller_pb2.GroupStatus.STATE_DRAINING


@pytest.mark.parametrize(
    ("card", "config", "reason"),
    [
        (replace(CARD, fingerprint="other"), {}, "another model is served as"),
        (replace(CARD, dtype="bfloat16"), {}, "holds m"),
        (CARD, {"tp_size": 2}, "tp 2"),
    ],
)
async def test_a_worker_that_does_not_fit_its_group_is_refused(stack, card, config, reason):
    await stack.add_worker()
    await stack.until(SERVING)
    stranger = await stack.add_worker(SimulatedEngine(card), **config)
    with pytest.raises(Exception, match=reason):
        await stranger.wait()
    assert (await stack.group()).state == SERVING


async def test_a_gpu_belongs_to_one_group(stack):
    def registration(worker_id, group):
        return controller_pb2.RegisterRequest(
            worker_id=worker_id,
            address="127.0.0.1:1",
            group=group,
            model=types_pb2.ModelInfo(name=group, tasks=[1], max_length=8, vocabulary_size=8),
            tp_size=4,
            pp_size=1,
            rendezvous_endpoint="127.0.0.1:1",
            device_id="GPU-1234",
        )

    await stack.stub.Register(registration("a", "one"), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.stub.Register(registration("b", "two"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "belongs to group one" in caught.value.details()


@pytest.mark.parametrize(
    "broken",
    [
        {"worker_id": ""},
        {"address": ""},
        {"tp_size": 0},
        {"tp_size": 2**31},
        {"rank": 7},
        {"model": types_pb2.ModelInfo(name="m")},
    ],
)
async def test_a_registration_that_breaks_its_contract_is_refused(stack, broken):
    fields = {
        "worker_id": "a",
        "address": "127.0.0.1:1",
        "group": "g",
        "model": types_pb2.ModelInfo(name="m", tasks=[1], max_length=8, vocabulary_size=8),
        "tp_size": 1,
        "pp_size": 1,
        "rendezvous_endpoint": "127.0.0.1:1",
    }
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.stub.Register(controller_pb2.RegisterRequest(**(fields | broken)), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        ({"prompt_token_ids": [], "num_samples": 1, "max_tokens": 1}, "INVALID_REQUEST"),
        ({"prompt_token_ids": [1], "num_samples": 0, "max_tokens": 1}, "INVALID_REQUEST"),
        ({"prompt_token_ids": [1], "num_samples": 1, "max_tokens": 0}, "INVALID_REQUEST"),
        ({"prompt_token_ids": [5000], "num_samples": 1, "max_tokens": 1}, "INVALID_REQUEST"),
        ({"prompt_token_ids": [1], "num_samples": 1, "max_tokens": 90}, "INPUT_TOO_LONG"),
        ({"prompt_token_ids": [1], "num_samples": 1, "max_tokens": 1, "prompt_logprobs": 21}, "INVALID_REQUEST"),
        ({"prompt_token_ids": [1], "num_samples": 1, "max_tokens": 1, "logprobs": 21}, "INVALID_REQUEST"),
        *(
            ({"prompt_token_ids": [1], "num_samples": 1, "max_tokens": 1, "sampling": sampling}, "INVALID_REQUEST")
            for sampling in (
                types_pb2.SamplingParameters(temperature=float("nan")),
                types_pb2.SamplingParameters(temperature=-1.0),
                types_pb2.SamplingParameters(top_p=0.0),
                types_pb2.SamplingParameters(min_p=float("inf")),
            )
        ),
    ],
)
async def test_a_bad_submit_fails_alone(stack, work, reason):
    await stack.add_worker()
    await stack.until(SERVING)
    gateway = await stack.connect()
    await gateway.send(submit=submit("bad", **work))
    assert failure(await gateway.events("bad")).reason == reason
    await gateway.send(submit=submit("good"))
    assert (await gateway.events("good"))[-1].HasField("finished")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"timeout_s": float("nan")}, "INVALID_REQUEST"),
        ({"timeout_s": 1e300}, "INVALID_REQUEST"),
        ({"task": types_pb2.TASK_EMBED}, "INVALID_REQUEST"),
        ({"task": 77}, "INVALID_REQUEST"),
        ({"request_id": ""}, "INVALID_REQUEST"),
        (
            {"task": types_pb2.TASK_CLASSIFY, "encode": encode_work(classify=controller_pb2.ClassifyHead())},
            "UNSUPPORTED_TASK",
        ),
        ({"task": types_pb2.TASK_EMBED, "encode": encode_work(pool=controller_pb2.PoolHead())}, "INVALID_REQUEST"),
        (
            {"task": types_pb2.TASK_EMBED, "encode": encode_work(pool=controller_pb2.PoolHead(pooling=9))},
            "INVALID_REQUEST",
        ),
        ({"task": types_pb2.TASK_EMBED, "encode": encode_work(pool=MEAN, types=[3])}, "INVALID_REQUEST"),
        ({"task": types_pb2.TASK_SCORE, "encode": encode_work(score=controller_pb2.ScoreHead())}, "INVALID_REQUEST"),
    ],
)
async def test_a_submit_that_breaks_its_contract_does_not_break_the_conversation(stack, changes, reason):
    await stack.add_worker()
    await stack.until(SERVING)
    gateway = await stack.connect()
    bad = controller_pb2.Submit(**({"request_id": "bad", "model": "m", "task": 1} | changes))
    if "encode" not in changes:
        bad.generate.CopyFrom(submit().generate)
    await gateway.send(submit=bad)
    assert failure(await gateway.events(changes.get("request_id", "bad"))).reason == reason
    await gateway.send(submit=submit("good"))
    assert (await gateway.events("good"))[-1].HasField("finished")


async def test_one_gateway_cannot_use_an_id_twice_at_once(stack):
    await stack.add_worker(group="copy-0")
    await stack.add_worker(group="copy-1")
    await stack.until(SERVING, "copy-0")
    await stack.until(SERVING, "copy-1")
    gateway = await stack.connect()
    for _ in range(2):
        await gateway.send(submit=submit("twice", prompt_token_ids=[1], num_samples=1, max_tokens=60))
    assert failure(await gateway.events("twice")).reason == "DUPLICATE_REQUEST"
    assert (await gateway.events("twice"))[-1].HasField("finished")


async def test_a_conversation_that_does_not_begin_with_hello_is_refused(stack):
    call = stack.stub.Connect()
    await call.write(controller_pb2.ConnectRequest(submit=submit()))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_lease_that_is_over_cannot_be_renewed(stack):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.stub.RenewLease(controller_pb2.RenewLeaseRequest(lease_id=99), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await stack.stub.RevokeLease(controller_pb2.RevokeLeaseRequest(lease_id=99), timeout=5)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"batch_compute_ns": ()}, "timings that cannot be"),
        ({"batch_exposed_ns": (-1,)}, "timings that cannot be"),
        ({"started_ns": 11}, "timings that cannot be"),
        ({"communication_ns": -5}, "timings that cannot be"),
        ({"spans": (StepSpan(1, 0, 0, 2**62),)}, "spans that cannot be"),
        ({"spans": (StepSpan(1, 0, 5, 4),)}, "spans that cannot be"),
        ({"spans": (StepSpan(9**9, 0, 0, 1),)}, "spans that cannot be"),
    ],
)
async def test_a_rank_with_impossible_timings_ends_its_epoch_loudly(stack, changes, detail):
    engine = SimulatedEngine(spoil=lambda outcome: replace(outcome, timings=replace(outcome.timings, **changes)))
    await stack.add_worker(engine)
    await stack.until(SERVING)
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert failure(await gateway.events("r")).reason == "GROUP_FAILED"
    await stack.until_detail(detail)


async def test_a_span_of_a_step_that_never_was_is_left_out(stack):
    span = StepSpan(1, 10**6, 0, 1)
    engine = SimulatedEngine(spoil=lambda outcome: replace(outcome, timings=replace(outcome.timings, spans=(span,))))
    await stack.add_worker(engine)
    await stack.until(SERVING)
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert (await gateway.events("r"))[-1].HasField("finished")
    timeline = await stack.stub.GetTimeline(controller_pb2.GetTimelineRequest(group="m", last_s=9), timeout=5)
    assert not timeline.spans
