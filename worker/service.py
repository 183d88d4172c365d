"""The worker's parts, put together, started and stopped."""

import asyncio
import uuid
from typing import Final

from liger import __version__
from liger.rpc.model_card import from_card
from liger.rpc.server import RpcServer
from liger.v1 import controller_pb2, worker_pb2, worker_pb2_grpc
from worker.config import WorkerConfig
from worker.rank import RankEngine
from worker.registration import Registration
from worker.servicer import WorkerServicer
from worker.session import Session, SessionState

SERVICE_NAME: Final = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
STOP_GRACE_S: Final = 1.0


class WorkerService:
    """One rank as one process. Implements `liger.lifecycle.Service`.

    Args:
        config: The worker's.
        engine: What computes.
    """

    def __init__(self, config: WorkerConfig, engine: RankEngine) -> None:
        self._config = config
        self._engine = engine
        self._session = Session(engine, checks_schedules=config.check_schedules)
        self._server = RpcServer()
        self._registration: Registration | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen and register."""
        self._session.start()
        servicer = WorkerServicer(self._session, self._config.model_folder)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, self._server.grpc)
        address = self._server.bind(self._config.listen, insecure=self._config.insecure)
        await self._server.start([SERVICE_NAME])
        print(f"worker listening on {address}", flush=True)  # noqa: T201 - the one line that starters read
        port = address.rpartition(":")[2]
        self._registration = Registration(self._config.controller, self._describe(f"{self._config.host}:{port}"))
        self._task = asyncio.create_task(self._registration.run())
        await self._server.set_serving(True)

    async def wait(self) -> None:
        """Raise if the controller refuses this worker; it never ends well."""
        assert self._task is not None, "started before"
        await asyncio.wait([self._task])  # being cancelled here must not end the registration
        self._task.result()

    async def drain(self) -> None:
        """Let the group finish what is under way, then leave it."""
        assert self._task is not None and self._registration is not None, "started before"  # noqa: PT018
        await self._server.set_serving(False)
        if self._session.state is SessionState.JOINED:  # a spare's group goes on without it
            await self._registration.drain_group(self._config.drain_limit_s)
        self._task.cancel()
        await self._registration.revoke()

    async def stop(self) -> None:
        """End the epoch and stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._registration is not None:
            await self._registration.close()
        await self._session.close()
        await self._server.stop(STOP_GRACE_S)
        self._engine.close()

    def _describe(self, address: str) -> controller_pb2.RegisterRequest:
        config = self._config
        return controller_pb2.RegisterRequest(
            worker_id=f"{config.group_name}-{uuid.uuid4().hex[:8]}",
            address=address,
            group=config.group_name,
            model=from_card(self._engine.card),
            tp_size=config.tp_size,
            pp_size=config.pp_size,
            rank=config.rank,
            rendezvous_endpoint=self._engine.rendezvous_endpoint,
            device_id="",
            device=self._engine.device,
            version=__version__,
        )
