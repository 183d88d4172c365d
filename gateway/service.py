"""The gateway's parts, put together, started and stopped."""

import asyncio
import secrets
import sys
import uuid
from typing import Final

from gateway.assets import AssetStore
from gateway.calls import Calls
from gateway.catalogue import Catalogue
from gateway.config import MIB, GatewayConfig
from gateway.constraints import ConstraintChecker
from gateway.controller_link import ControllerLink
from gateway.generate import Generator
from gateway.identity import AllowAll, IdentityInterceptor
from gateway.infer import Inferrer
from gateway.interception import WireInterceptor
from gateway.model_files import ModelFiles
from gateway.servicer import InferenceServicer
from liger.rpc.server import RpcServer
from liger.v1 import inference_pb2
from liger.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server

SERVICE_NAME: Final = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
STOP_GRACE_S: Final = 0.5


class GatewayService:
    """One gateway's process. Implements `liger.lifecycle.Service`."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        interceptors = [WireInterceptor(config.max_message_mib * MIB), IdentityInterceptor(AllowAll())]
        self._server = RpcServer(interceptors)
        self._calls = Calls(config.max_requests)
        self._catalogue = Catalogue()
        self._constraints = ConstraintChecker()
        self._link = ControllerLink(
            config.controller, f"gateway-{uuid.uuid4().hex[:12]}", self._catalogue, self._on_change
        )
        self._conversation: asyncio.Task[None] | None = None
        self._draining = False
        self.address = ""  # host:port in use, once started

    async def start(self) -> None:
        """Listen, and begin to look for the controller; health says NOT_SERVING until it has spoken."""
        assets = AssetStore(ModelFiles(self._config.controller).fetch)
        servicer = InferenceServicer(
            calls=self._calls,
            catalogue=self._catalogue,
            assets=assets,
            generator=Generator(self._link, assets, self._constraints, lambda: secrets.randbits(64)),
            inferrer=Inferrer(self._link, assets),
            max_inputs=self._config.max_inputs,
        )
        add_InferenceServiceServicer_to_server(servicer, self._server.grpc)
        self.address = self._server.bind(self._config.listen, insecure=self._config.insecure)
        await self._server.start([SERVICE_NAME])
        self._conversation = asyncio.create_task(self._link.run(), name="controller-link")
        sys.stdout.write(f"gateway listening on {self.address}\n")
        sys.stdout.flush()

    async def wait(self) -> None:
        """Raise if the conversation with the controller fails in a way that it should not; it never ends well."""
        assert self._conversation is not None, "wait comes after start"
        await asyncio.shield(self._conversation)

    async def drain(self) -> None:
        """Say NOT_SERVING, refuse new calls, wait for those under way."""
        self._draining = True
        self._calls.refuse_new()
        await self._server.set_serving(False)
        await self._calls.all_ended()

    async def stop(self) -> None:
        """End what is left and stop listening."""
        await self._server.stop(STOP_GRACE_S)
        self._constraints.close()
        if self._conversation is not None:
            self._conversation.cancel()
            await asyncio.gather(self._conversation, return_exceptions=True)

    async def _on_change(self, can_serve: bool) -> None:
        await self._server.set_serving(can_serve and not self._draining)
