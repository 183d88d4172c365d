"""What waits to be sent to the controller: bounded, and a request that is given up before it was sent never is."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final

from gateway.controller_codec import from_acknowledgements, from_cancel
from liger.domain import FinishReason
from liger.errors import OverloadedError
from liger.v1 import controller_pb2 as pb

MAX_WAITING_SUBMITS: Final = 256
MAX_ACKNOWLEDGED: Final = 1024  # samples, in one message
RETRY_AFTER_S: Final = 1.0


class Outgoing:
    """The messages of one conversation, in order."""

    def __init__(self, gateway_id: str) -> None:
        self._hello = pb.ConnectRequest(hello=pb.GatewayHello(gateway_id=gateway_id))
        self._submits: OrderedDict[str, pb.Submit] = OrderedDict()
        self._cancels: OrderedDict[tuple[str, int | None], FinishReason] = OrderedDict()
        self._acknowledges: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._news = asyncio.Event()

    def submit(self, message: pb.Submit) -> None:
        """Queue a request.

        Raises:
            OverloadedError: The controller takes requests more slowly than they come.
        """
        if len(self._submits) >= MAX_WAITING_SUBMITS:
            raise OverloadedError(
                f"{MAX_WAITING_SUBMITS} requests wait to be sent to the controller; try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        self._submits[message.request_id] = message
        self._news.set()

    def cancel(self, request_id: str, sample: int | None, reason: FinishReason) -> None:
        """Queue a cancel; a request that was not sent yet is taken back instead."""
        if sample is None and self._submits.pop(request_id, None) is not None:
            return
        self._cancels[request_id, sample] = reason
        self._news.set()

    def acknowledge(self, request_id: str, sample: int, num_tokens: int) -> None:
        """Queue how many tokens of a sample the client has taken; of several such, the last one tells all."""
        self._acknowledges[request_id, sample] = num_tokens
        self._news.set()

    async def messages(self) -> AsyncIterator[pb.ConnectRequest]:
        """Give the messages to send, without end.

        Cancels go first, as they free what others wait for; acknowledgements next, as running samples wait for them.
        """
        yield self._hello
        while True:
            await self._news.wait()
            self._news.clear()
            while self._cancels or self._acknowledges or self._submits:
                yield self._next()

    def _next(self) -> pb.ConnectRequest:
        if self._cancels:
            (request_id, sample), reason = self._cancels.popitem(last=False)
            return pb.ConnectRequest(cancel=from_cancel(request_id, sample, reason))
        if self._acknowledges:
            count = min(len(self._acknowledges), MAX_ACKNOWLEDGED)
            taken = [self._acknowledges.popitem(last=False) for _ in range(count)]
            return pb.ConnectRequest(acknowledgements=from_acknowledgements(taken))
        _, message = self._submits.popitem(last=False)
        return pb.ConnectRequest(submit=message)
