"""The least that a gateway does: keep so many generations under way and count their tokens."""

import asyncio

from bench.controller.made_up import Load
from liger.errors import UnavailableError
from liger.rpc.channel import open_channel
from liger.rpc.status import from_message
from liger.v1 import controller_pb2, controller_pb2_grpc


class BenchGateway:
    """One conversation with the controller.

    Args:
        address: host:port of the controller.
        load: What it submits.
    """

    def __init__(self, address: str, load: Load) -> None:
        self.num_tokens = 0
        self.num_messages = 0
        self.num_finished = 0
        self._address = address
        self._load = load
        self._served = asyncio.Event()

    async def wait_until_served(self) -> None:
        """Return when a group serves the model."""
        await self._served.wait()

    async def run(self) -> None:
        """Submit and read until cancelled.

        Raises:
            LigerError: A request failed, or the controller ended the conversation.
        """
        submits = self._load.submits()
        async with open_channel(self._address) as channel:
            call = controller_pb2_grpc.ControllerServiceStub(channel).Connect()
            await call.write(controller_pb2.ConnectRequest(hello=controller_pb2.GatewayHello(gateway_id="bench")))
            async for response in call:
                for _ in range(self._take(response)):
                    await call.write(next(submits))
        raise UnavailableError("the controller ended the conversation")

    def _take(self, response: controller_pb2.ConnectResponse) -> int:
        """Take a message and return how many requests should follow."""
        self.num_messages += 1
        match response.WhichOneof("message"):
            case "step":
                self.num_tokens += sum(len(part.token_ids) for part in response.step.tokens)
            case "tokens":
                self.num_tokens += len(response.tokens.token_ids)
            case "finished":
                self.num_finished += 1
                return 1
            case "failed":
                raise from_message(response.failed.error)
            case "catalogue" if not self._served.is_set() and any(
                entry.num_groups for entry in response.catalogue.entries
            ):
                self._served.set()
                return self._load.num_sequences
        return 0
