from dataclasses import replace

import grpc
import pytest

from liger.errors import ModelFolderError
from liger.v1 import controller_pb2, types_pb2
from tests.support.in_process import CARD, SimulatedEngine, running_stack
from tests.support.simulated_ranks import drawn_token

SERVING = controller_pb2.GroupStatus.STATE_SERVING
WAITING = controller_pb2.GroupStatus.STATE_WAITING
DRAINING = controller_pb2.GroupStatus.STATE_DRAINING


@pytest.fixture
async def stack(tmp_path, capsys):
    async with running_stack(tmp_path, lambda: capsys.readouterr().out) as stack:
        yield stack


def submit(request_id="r", model="m", **work):
    work = work or {"prompt_token_ids": [1, 2, 3], "num_samples": 1, "max_tokens": 4}
    return controller_pb2.Submit(
        request_id=request_id,
        model=model,
        task=types_pb2.TASK_GENERATE,
        generate=controller_pb2.GenerateWork(**work),
    )


MEAN = controller_pb2.PoolHead(pooling=types_pb2.POOLING_MEAN)


def encode_work(types=(), **head):
    item = controller_pb2.EncodeWork.Item(token_ids=[1], token_type_ids=types)
    return controller_pb2.EncodeWork(items=[item], head=controller_pb2.EncodeHead(**head))


def failure(events):
    return events[-1].failed.error


async def test_two_workers_become_a_group_and_answer(stack):
    for rank in (1, 0):
        await stack.add_worker(tp_size=2, rank=rank)
    status = await stack.until(SERVING)
    assert [rank.rank for rank in status.ranks] == [0, 1]
    assert (status.world_size, status.num_blocks, status.block_size, status.epoch) == (2, 64, 4, 1)
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    events = await gateway.events("r")
    tokens = [1, 2, 3]
    for event in events[:-1]:
        assert event.tokens.token_ids[0] == drawn_token(tokens)
        tokens.append(event.tokens.token_ids[0])
    finished = events[-1].finished
    assert finished.usage.completion_tokens == 4
    assert list(finished.placement.worker_ids) == [rank.worker_id for rank in status.ranks]
    assert (finished.timings.depth, finished.placement.epoch) == (1, 1)


async def test_a_group_waits_for_all_its_workers(stack):
    await stack.add_worker(tp_size=3)
    status = await stack.until(WAITING)
    assert "2 more workers" in status.detail
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert failure(await gateway.events("r")).reason == "UNAVAILABLE"


async def test_an_unknown_model_is_not_found(stack):
    gateway = await stack.connect()
    await gateway.send(submit=submit(model="nobody"))
    assert failure(await gateway.events("r")).reason == "MODEL_NOT_FOUND"


async def test_a_worker_that_leaves_ends_the_epoch_and_a_new_one_begins_the_next(stack):
    first = await stack.add_worker(tp_size=2)
    await stack.add_worker(tp_size=2)
    await stack.until(SERVING)
    await stack.remove(first)
    await stack.until_detail("1 more worker")
    await stack.add_worker(tp_size=2)
    status = await stack.until(SERVING, epoch=2)
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert (await gateway.events("r"))[-1].finished.placement.epoch == status.epoch


async def test_ranks_that_launch_another_order_end_the_epoch_loudly(stack):
    swapped = SimulatedEngine(spoil=lambda outcome: replace(outcome, launched_digest=outcome.launched_digest ^ 1))
    await stack.add_worker(tp_size=2, rank=0)
    await stack.add_worker(swapped, tp_size=2, rank=1)
    await stack.until(SERVING)
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert failure(await gateway.events("r")).reason == "GROUP_FAILED"
    await stack.until_detail("another order")


async def test_ranks_that_draw_different_tokens_end_the_epoch_loudly(stack):
    differing = SimulatedEngine(spoil=lambda outcome: replace(outcome, sampled_digest=5))
    await stack.add_worker(tp_size=2, rank=0)
    await stack.add_worker(differing, tp_size=2, rank=1)
    await stack.until(SERVING)
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert failure(await gateway.events("r")).reason == "GROUP_FAILED"
    await stack.until_detail("different tokens")


async def test_a_failed_epoch_is_followed_by_another_one_with_the_same_workers(stack):
    spoiled = []

    def spoil_once(outcome):
        spoiled.append(outcome.number)
        return replace(outcome, launched_digest=0) if len(spoiled) == 1 else outcome

    engine = SimulatedEngine(spoil=spoil_once)
    await stack.add_worker(engine)
    await stack.until(SERVING)
    gateway = await stack.connect()
    await gateway.send(submit=submit("lost"))
    assert failure(await gateway.events("lost")).reason == "GROUP_FAILED"
    await stack.until(SERVING, epoch=2)
    await gateway.send(submit=submit("after"))
    assert (await gateway.events("after"))[-1].HasField("finished")
    assert engine.epochs == [1, 2]


async def test_a_model_that_cannot_be_loaded_is_told_in_the_status(stack):
    engine = SimulatedEngine()
    engine.join_error = ModelFolderError("model.safetensors is truncated: bring it again")
    await stack.add_worker(engine)
    await stack.until_detail("truncated")


async def test_an_engine_that_breaks_inside_ends_the_epoch_with_its_name(stack):
    def break_down(_):
        raise ZeroDivisionError("oops")

    await stack.add_worker(SimulatedEngine(spoil=break_down))
    await stack.until(SERVING)
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert failure(await gateway.events("r")).reason == "GROUP_FAILED"
    await stack.until_detail("ZeroDivisionError")


async def test_requests_go_to_the_least_loaded_copy(stack):
    await stack.add_worker(group="copy-0")
    await stack.add_worker(group="copy-1")
    await stack.until(SERVING, "copy-0")
    await stack.until(SERVING, "copy-1")
    gateway = await stack.connect()
    for number in range(4):
        await gateway.send(submit=submit(f"r{number}", prompt_token_ids=[1], num_samples=1, max_tokens=50))
    await gateway.events("r3")
    windows = [(await stack.group(name)).num_windows for name in ("copy-0", "copy-1")]
    assert all(count > 0 for count in windows)


async def test_a_cancel_ends_a_request_and_frees_its_blocks(stack):
    await stack.add_worker()
    await stack.until(SERVING)
    gateway = await stack.connect()
    await gateway.send(submit=submit(prompt_token_ids=[1], num_samples=1, max_tokens=60))
    cancel = controller_pb2.Cancel(request_id="r", reason=types_pb2.FINISH_REASON_CANCELLED)
    await gateway.send(cancel=cancel)
    assert (await gateway.events("r"))[-1].WhichOneof("message") in {"failed", "finished"}
    await gateway.send(submit=submit("after"))
    await gateway.events("after")
    assert (await stack.group()).num_used_blocks == 0


async def test_a_deadline_that_passes_fails_the_request(stack):
    await stack.add_worker()
    await stack.until(SERVING)
    gateway = await stack.connect()
    late = submit()
    late.timeout_s = 0.0
    await gateway.send(submit=late)
    assert failure(await gateway.events("r")).reason == "DEADLINE_EXCEEDED"


async def test_a_gateway_that_goes_takes_its_requests_with_it(stack):
    await stack.add_worker()
    await stack.until(SERVING)
    gateway = await stack.connect("first")
    await gateway.send(submit=submit("r", prompt_token_ids=[1], num_samples=1, max_tokens=60))
    gateway.call.cancel()
    other = await stack.connect("second")
    await other.send(submit=submit("r2"))
    await other.events("r2")
    cluster = await stack.stub.GetCluster(controller_pb2.GetClusterRequest(), timeout=5)
    assert (await stack.group()).num_running == 0
    assert "second" in cluster.gateway_ids


async def test_a_draining_group_finishes_and_takes_no_more(stack):
    await stack.add_worker()
    await stack.until(SERVING)
    gateway = await stack.connect()
    await gateway.send(submit=submit("under-way"))
    await gateway.events("under-way")
    response = await stack.stub.Drain(controller_pb2.DrainRequest(group="m", timeout_s=5.0), timeout=10)
    assert response.num_abandoned == 0
    assert (await stack.group()).state == DRAINING
    await gateway.send(submit=submit("late"))
    assert failure(await gateway.events("late")).reason == "UNAVAILABLE"


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
        ({"prompt_token_ids": [1], "num_samples": 1, "max_tokens": 1, "prompt_logprobs": 1}, "NOT_SERVED"),
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


async def test_assets_come_from_the_workers_folder(stack, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b"x" * (3 << 20))
    (tmp_path / "secret.txt").write_text("not for gateways")
    await stack.add_worker()
    await stack.until(SERVING)
    call = stack.stub.GetModelAssets(controller_pb2.GetModelAssetsRequest(model="m"), timeout=10)
    parts = [response.asset async for response in call]
    assert {part.name for part in parts} == {"tokenizer.json"}
    assert b"".join(part.content for part in parts) == b"x" * (3 << 20)
    assert [part.last for part in parts] == [False, False, True]
