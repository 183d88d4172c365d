"""`liger profile --fresh`, from the call to the ranks that measure anew."""

import asyncio
import threading

import grpc
import pytest

from liger.cluster_views import await_epoch, renew_profile
from liger.errors import InvalidRequestError, ModelFolderError, UnavailableError
from liger.v1 import controller_pb2
from tests.support.in_process import SimulatedEngine, running_stack
from tests.support.submits import submit

SERVING = controller_pb2.GroupStatus.STATE_SERVING
DRAINING = controller_pb2.GroupStatus.STATE_DRAINING


class ProfiledEngine(SimulatedEngine):
    """Notes whether it is asked to measure anew."""

    def __init__(self) -> None:
        super().__init__()
        self.fresh: list[bool] = []
        self.before_run = lambda: None

    def profile(self, progress, *, fresh):
        self.fresh.append(fresh)
        return super().profile(progress, fresh=fresh)

    def run(self, pattern, window):
        self.before_run()
        return super().run(pattern, window)


@pytest.fixture
async def engines(stack):
    engines = [ProfiledEngine(), ProfiledEngine()]
    for rank, engine in enumerate(engines):
        await stack.add_worker(engine, tp_size=2, rank=rank)
    await stack.until(SERVING)
    return engines


async def test_the_ranks_measure_anew_in_a_new_epoch_and_serve(stack, engines):
    said = []
    renewed = await renew_profile(stack.address, "m", 5.0)
    await await_epoch(stack.address, "m", after=renewed.ended_epoch, tell=lambda *what: said.append(what))
    assert (renewed.ended_epoch, renewed.num_finished, renewed.num_abandoned) == (1, 0, 0)
    assert [engine.fresh for engine in engines] == [[False, True]] * 2
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert (await gateway.events("r"))[-1].finished.placement.epoch == 2


async def test_the_next_epoch_after_it_measures_nothing_anew(stack, engines):
    renewed = await renew_profile(stack.address, "m", 5.0)
    await await_epoch(stack.address, "m", after=renewed.ended_epoch, tell=lambda *_: None)
    await stack.remove(stack.workers[0])
    await stack.add_worker(engines[0], tp_size=2, rank=0)
    await stack.until(SERVING, epoch=3)
    assert [engine.fresh[-1] for engine in engines] == [False, False]


async def test_the_wish_outlives_an_epoch_that_cannot_be_formed(stack, engines):
    engines[0].join_error = ModelFolderError("not yet")
    renewed = await renew_profile(stack.address, "m", 5.0)
    await stack.until_detail("not yet")
    engines[0].join_error = None
    await await_epoch(stack.address, "m", after=renewed.ended_epoch, tell=lambda *_: None)
    assert engines[1].fresh == [False, True]


async def test_what_is_in_flight_is_finished_first(stack, engines):
    began, goes_on = threading.Event(), threading.Event()
    engines[0].before_run = lambda: (began.set(), goes_on.wait(30))
    gateway = await stack.connect()
    await gateway.send(submit=submit())
    assert await asyncio.to_thread(began.wait, 30)
    renewing = asyncio.create_task(renew_profile(stack.address, "m", 30.0))
    await stack.until(DRAINING)
    goes_on.set()
    assert (await gateway.events("r"))[-1].WhichOneof("message") == "finished"
    renewed = await renewing
    assert (renewed.num_finished, renewed.num_abandoned) == (1, 0)
    await stack.until(SERVING, epoch=2)


async def test_a_call_that_is_given_up_lets_the_group_serve_on(stack, engines):
    group = stack.service._groups.find("m")
    group._idle.clear()  # as if a request never ended
    call = stack.stub.RenewProfile(controller_pb2.RenewProfileRequest(timeout_s=60.0), timeout=60)
    await stack.until(DRAINING)
    call.cancel()
    await stack.until(SERVING)
    assert (await stack.group()).epoch == 1


async def test_a_group_that_does_not_serve_is_not_renewed(stack):
    await stack.add_worker(tp_size=2)
    await stack.until(controller_pb2.GroupStatus.STATE_WAITING)
    with pytest.raises(UnavailableError, match="does not serve now"):
        await renew_profile(stack.address, "m", 5.0)


async def test_a_group_without_a_profile_is_not_renewed(tmp_path, capsys):
    async with running_stack(tmp_path, lambda: capsys.readouterr().out, strategy="tensor") as stack:
        for rank in (0, 1):
            await stack.add_worker(tp_size=2, rank=rank)
        await stack.until(SERVING)
        with pytest.raises(InvalidRequestError, match="plans without one"):
            await renew_profile(stack.address, "m", 5.0)
        assert (await stack.group()).state == SERVING


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan"), float("inf")])
async def test_a_time_that_cannot_be_is_refused(stack, engines, timeout_s):
    with pytest.raises(InvalidRequestError, match="number of seconds"):
        await renew_profile(stack.address, "m", timeout_s)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.stub.RenewProfile(controller_pb2.RenewProfileRequest(timeout_s=timeout_s), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
