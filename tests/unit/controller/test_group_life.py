import asyncio
from dataclasses import replace

from liger.domain import BatchKind
from liger.errors import ModelFolderError
from liger.v1 import controller_pb2, types_pb2
from tests.support.in_process import SimulatedEngine
from tests.support.simulated_ranks import FORWARDS, drawn_token
from tests.support.submits import failure, submit

SERVING = controller_pb2.GroupStatus.STATE_SERVING
WAITING = controller_pb2.GroupStatus.STATE_WAITING
DRAINING = controller_pb2.GroupStatus.STATE_DRAINING


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


async def test_whoever_waits_for_the_controller_and_gives_up_does_not_end_its_groups(stack):
    await stack.add_worker()
    await stack.until(SERVING)
    waiting = asyncio.create_task(stack.service.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert (await gateway.events("r"))[-1].HasField("finished")


async def test_a_spare_worker_that_leaves_does_not_disturb_its_group(stack):
    await stack.add_worker()
    await stack.until(SERVING)
    spare = await stack.add_worker()
    await spare.drain()
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert (await gateway.events("r"))[-1].finished.placement.epoch == 1


async def test_a_drain_lasts_until_the_next_epoch(stack):
    worker = await stack.add_worker()
    await stack.until(SERVING)
    await worker.drain()
    await stack.remove(worker)
    await stack.until(WAITING)
    await stack.stub.Drain(controller_pb2.DrainRequest(group="m", timeout_s=1.0), timeout=10)
    await stack.add_worker()
    await stack.until(SERVING, epoch=2)


async def test_ranks_with_different_blocks_do_not_form_a_group(stack):
    other = SimulatedEngine()
    other.block_size = 8
    await stack.add_worker(tp_size=2)
    await stack.add_worker(other, tp_size=2)
    await stack.until_detail("--block-size")


async def test_ranks_that_cannot_do_what_the_model_is_for_do_not_form_a_group(stack):
    engine = SimulatedEngine()
    engine.forwards = {BatchKind.ENCODE: FORWARDS[BatchKind.ENCODE]}
    await stack.add_worker(engine)
    await stack.until_detail("cannot run what model m is for")


async def test_a_rank_that_gives_no_results_ends_its_own_epoch_alone(stack):
    await stack.add_worker(SimulatedEngine(spoil=lambda outcome: replace(outcome, batches=())), group="copy-0")
    await stack.until(SERVING, "copy-0")
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert failure(await gateway.events("r")).reason == "GROUP_FAILED"
    await stack.until_detail("without its results", "copy-0")
    await stack.until(SERVING, "copy-0", epoch=2)


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
