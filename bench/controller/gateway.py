"""The least that a gateway does: hold the conversation for a client."""

import asyncio

from bench.controller.made_up import Client
from liger.errors import UnavailableError
from liger.rpc.channel import open_channel
from liger.v1 import controller_pb2, controller_pb2_grpc


class BenchGateway:
    """One conversation with the controller.

    Args:
        address: host:port of the controller.
        client: Whom it serves.
    """

    def __init__(self, address: str, client: Client) -> None:
        self.client = client
        self._address = address
        self._is_served = asyncio.Event()

    async def wait_until_served(self) -> None:
        """Return when a group serves the model."""
        await self._is_served.wait()

    async def run(self) -> None:
        """Submit and read until cancelled.

        Raises:
            LigerError: A request failed, or the controller ended the conversation.
        """
        async with open_channel(self._address) as channel:
            call = controller_pb2_grpc.ControllerServiceStub(channel).Connect()
            await call.write(controller_pb2.ConnectRequest(hello=controller_pb2.GatewayHello(gateway_id="bench")))
            async for response in call:
                if not self._is_served.is_set() and any(entry.num_groups for entry in response.catalogue.entries):
                    self._is_served.set()
                    requests = self.client.begin()
                else:
                    requests = self.client.take(response)
                for request in requests:
                    await call.write(request)
        raise UnavailableError("the controller ended the conversation")
