"""A controller and workers with simulated engines, as real gRPC services in the test's own process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc.aio

from controller.config import ControllerConfig
from controller.service import ControllerService
from liger.domain import ModelCard, Task
from liger.profile import ProfileTable
from liger.rpc.channel import open_channel
from liger.schedule import Pattern, Window, WindowOutcome
from liger.v1 import controller_pb2, controller_pb2_grpc
from tests.support.simulated_ranks import FORWARDS, SimulatedRank, made_profile
from worker.config import WorkerConfig
from worker.rank import Joined, JoinPlan, Progress, ReadOutcome
from worker.service import WorkerService

CARD = ModelCard(
    name="m",
    architecture="Simulated",
    tasks=(Task.GENERATE, Task.EMBED, Task.SCORE),
    max_length=64,
    vocabulary_size=1000,
    hidden_size=8,
    num_layers=1,
    fingerprint="f00d",
)


class SimulatedEngine:
    """A `RankEngine` whose model is made up; `spoil` may change or refuse what it does."""

    device = "simulated"
    rendezvous_endpoint = "127.0.0.1:1"

    def __init__(self, card: ModelCard = CARD, spoil: Callable[[WindowOutcome], WindowOutcome] | None = None) -> None:
        self.card = card
        self.join_error: Exception | None = None
        self.block_size = 4
        self.forwards = FORWARDS
        self.runs_ahead = False
        self.epochs: list[int] = []
        self.num_leaves = 0
        self._rank = SimulatedRank()
        self._plan: JoinPlan | None = None
        self._spoil = spoil

    def join(self, plan: JoinPlan, progress: Progress) -> Joined:
        progress("loading weights", 0.5)
        if self.join_error is not None:
            raise self.join_error
        self._plan = plan
        self._rank = SimulatedRank(fence=plan.fence, num_slots=plan.num_slots, rank=plan.rank)
        self.epochs.append(plan.fence.epoch)
        return Joined(forwards=self.forwards, num_blocks=64, block_size=self.block_size, weight_bytes=10, kv_bytes=20)

    def profile(self, progress: Progress, *, fresh: bool) -> ProfileTable:
        progress("measuring segments", 0.5)
        return made_profile()

    def run(self, pattern: Pattern, window: Window) -> ReadOutcome:
        assert self._plan is not None
        outcome = self._rank.run(pattern, window)
        if self._plan.tp_rank != 0:
            outcome = replace(outcome, batches=())
        told = self._spoil(outcome) if self._spoil else outcome
        return lambda: told

    def abort(self) -> None:
        pass

    def leave(self) -> None:
        self.num_leaves += 1

    def close(self) -> None:
        pass


class Stack:
    """One controller with any workers."""

    def __init__(self, service: ControllerService, controller: str, folder: Path) -> None:
        self.service = service
        self.address = controller
        self.channel = open_channel(controller)
        self.stub = controller_pb2_grpc.ControllerServiceStub(self.channel)
        self.workers: list[WorkerService] = []
        self._folder = folder
        self._calls: list[grpc.aio.Call] = []

    async def add_worker(self, engine: SimulatedEngine | None = None, **config: object) -> WorkerService:
        settings = {"model_folder": self._folder, "model_name": "m", "controller": self.address, "drain_limit_s": 5.0}
        service = WorkerService(WorkerConfig(**(settings | config)), engine or SimulatedEngine())
        self.workers.append(service)
        await service.start()
        return service

    async def remove(self, worker: WorkerService) -> None:
        self.workers.remove(worker)
        await worker.stop()

    async def group(self, name: str = "m") -> controller_pb2.GroupStatus:
        cluster = await self.stub.GetCluster(controller_pb2.GetClusterRequest(), timeout=5)
        return next((group for group in cluster.groups if group.name == name), controller_pb2.GroupStatus())

    async def until(self, state: int, name: str = "m", *, epoch: int = 0) -> controller_pb2.GroupStatus:
        """Wait until a group is in a state, in an epoch of at least the given number."""
        async with asyncio.timeout(30):
            while True:
                status = await self.group(name)
                if status.state == state and status.epoch >= epoch:
                    return status
                await asyncio.sleep(0.01)

    async def until_detail(self, text: str, name: str = "m") -> None:
        """Wait until a group's detail for people holds a text."""
        async with asyncio.timeout(30):
            while True:
                if text in (await self.group(name)).detail:
                    return
                await asyncio.sleep(0.01)

    async def connect(self, gateway_id: str = "gw") -> "Gateway":
        gateway = Gateway(self.stub, gateway_id)
        self._calls.append(gateway.call)
        return gateway

    async def close(self) -> None:
        for call in self._calls:
            call.cancel()
        for worker in list(self.workers):
            await self.remove(worker)
        await self.channel.close()


class Gateway:
    """A gateway's side of the conversation."""

    def __init__(self, stub: controller_pb2_grpc.ControllerServiceStub, gateway_id: str) -> None:
        self.call = stub.Connect()
        self._hello = controller_pb2.ConnectRequest(hello=controller_pb2.GatewayHello(gateway_id=gateway_id))
        self._greeted = False

    async def send(self, **message: object) -> None:
        if not self._greeted:
            self._greeted = True
            await self.call.write(self._hello)
        await self.call.write(controller_pb2.ConnectRequest(**message))

    async def events(self, request_id: str) -> list[controller_pb2.ConnectResponse]:
        """Read until a request is over; return its events."""
        events = []
        async with asyncio.timeout(30):
            while True:
                message = await self.call.read()
                assert message is not grpc.aio.EOF, "the controller closed the stream"
                kind = message.WhichOneof("message")
                if kind == "step":
                    mine = [tokens for tokens in message.step.tokens if tokens.request_id == request_id]
                    events += [controller_pb2.ConnectResponse(tokens=tokens) for tokens in mine]
                elif kind not in {"welcome", "catalogue"} and getattr(message, kind).request_id == request_id:
                    events.append(message)
                    if kind in {"finished", "failed"}:
                        return events


@asynccontextmanager
async def running_stack(tmp_path: Path, capsys_out: Callable[[], str], **config: object) -> AsyncIterator[Stack]:
    """Run a controller; `capsys_out` reads what it printed, which names its port."""
    service = ControllerService(ControllerConfig(listen="127.0.0.1:0", **config))
    await service.start()
    address = capsys_out().strip().rsplit(" ", 1)[-1]
    stack = Stack(service, address, tmp_path)
    try:
        yield stack
    finally:
        await stack.close()
        await service.stop()
