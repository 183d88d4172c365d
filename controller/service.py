"""The controller's parts, put together, started and stopped."""

import asyncio
import time
from typing import Final

from controller.config import ControllerConfig
from controller.gateways import Gateways
from controller.groups import Groups
from controller.membership.memory import MemoryMembership
from controller.servicer import ControllerServicer
from liger.rpc.server import RpcServer
from liger.v1 import controller_pb2, controller_pb2_grpc

SERVICE_NAME: Final = controller_pb2.DESCRIPTOR.services_by_name["ControllerService"].full_name
STOP_GRACE_S: Final = 1.0


class ControllerService:
    """The control plane as one process. Implements `liger.lifecycle.Service`."""

    def __init__(self, config: ControllerConfig) -> None:
        self._config = config
        self._membership = MemoryMembership(
            ttl_s=config.lease_ttl_s, clock=time.monotonic, leader_term=int(time.time())
        )
        self._gateways = Gateways()
        self._groups = Groups(config, self._membership, self._on_change)
        self._server = RpcServer()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listen and follow membership."""
        servicer = ControllerServicer(self._groups, self._gateways, self._membership)
        controller_pb2_grpc.add_ControllerServiceServicer_to_server(servicer, self._server.grpc)
        address = self._server.bind(self._config.listen, insecure=self._config.insecure)
        await self._server.start([SERVICE_NAME])
        self._tasks = [asyncio.create_task(self._groups.run()), asyncio.create_task(self._membership.sweep())]
        await self._server.set_serving(True)
        print(f"controller listening on {address}", flush=True)  # noqa: T201 - the one line that starters read

    async def wait(self) -> None:
        """Raise if one of the controller's own tasks fails; they never end well."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)  # cancels none of them
        for task in done:
            task.result()

    async def drain(self) -> None:
        """Take no new work; finish what is under way."""
        await self._server.set_serving(False)
        await self._groups.drain(self._groups.all(), self._config.drain_limit_s)

    async def stop(self) -> None:
        """End all groups and stop listening."""
        self._groups.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._gateways.close()
        await self._server.stop(STOP_GRACE_S)

    def _on_change(self) -> None:
        self._gateways.tell_catalogue(self._groups)
