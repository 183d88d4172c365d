"""The gateways' conversations: requests in, events out, each gateway's own."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import count
from typing import Final

from controller.codec.cluster import from_catalogue
from controller.codec.gateways import broken, from_event, to_request
from controller.core.events import Event, OutputMade, RequestBroken, RequestEnded, StepMade, TokensMade
from controller.group import Group
from controller.groups import Groups
from controller.outbox import Outbox, output_numbers
from liger.domain import Fence, FinishReason
from liger.errors import DuplicateRequestError, InvalidRequestError, LigerError, OverloadedError
from liger.v1 import controller_pb2, types_pb2

_LOG: Final = logging.getLogger(__name__)


class GatewaySession:
    """One gateway's conversation.

    Args:
        gateway_id: As it named itself.
        groups: Where requests go.
        number: Of the conversation, unlike any other's that is under way.
    """

    def __init__(self, gateway_id: str, groups: Groups, number: int = 0) -> None:
        self.gateway_id = gateway_id
        self._number = number
        self._groups = groups
        self._out = Outbox()
        self._requests: dict[str, Group] = {}

    def take(self, message: controller_pb2.ConnectRequest) -> None:
        """Do what the gateway says; a bad submit fails that request alone.

        Raises:
            InvalidRequestError: The message is of no known kind.
        """
        match message.WhichOneof("message"):
            case "submit":
                self._submit(message.submit)
            case "cancel":
                self._cancel(message.cancel)
            case "acknowledgements":
                for told in message.acknowledgements.of:
                    self._acknowledge(told)
            case _:
                raise InvalidRequestError("a gateway may send submit, cancel and acknowledgements after its hello")

    def send(self, message: controller_pb2.ConnectResponse) -> None:
        """Queue a message for the gateway."""
        self._out.put(message)

    async def messages(self) -> AsyncIterator[controller_pb2.ConnectResponse]:
        """Give the messages for the gateway, in order, until the session is closed.

        Raises:
            OverloadedError: The gateway does not read.
        """
        while (message := await self._out.get()) is not None:
            if self._out.is_overfull:
                raise OverloadedError(f"gateway {self.gateway_id} does not read its events; connect again")
            yield message

    def close(self) -> None:
        """Give up what the gateway had under way, and tell it nothing any more."""
        self._out.close()
        for request_id, group in list(self._requests.items()):
            group.cancel(request_id, None, FinishReason.CANCELLED)
        self._requests.clear()

    def _submit(self, message: controller_pb2.Submit) -> None:
        try:
            self._admit(message)
        except LigerError as error:
            self.send(broken(RequestBroken(request_id=message.request_id, error=error)))
        except Exception:  # noqa: BLE001 - one request's trouble must not end the conversation
            _LOG.exception("a submit failed inside", extra={"request_id": message.request_id})
            inside = LigerError("internal error; the controller's log has the details")
            self.send(broken(RequestBroken(request_id=message.request_id, error=inside)))

    def _admit(self, message: controller_pb2.Submit) -> None:
        if message.request_id in self._requests:
            raise DuplicateRequestError(f"request {message.request_id} is under way; use another request_id")
        request = to_request(message, time.monotonic_ns(), self._number)
        self._out.seal()  # tokens of an older request with this id may wait, and its end behind them
        self._requests[request.request_id] = self._groups.submit(request, self._on_event)

    def _cancel(self, message: controller_pb2.Cancel) -> None:
        group = self._requests.get(message.request_id)
        if group is not None:
            is_stop = message.reason == types_pb2.FINISH_REASON_STOP
            reason = FinishReason.STOP if is_stop else FinishReason.CANCELLED
            group.cancel(message.request_id, message.sample if message.HasField("sample") else None, reason)

    def _acknowledge(self, message: controller_pb2.Acknowledge) -> None:
        group = self._requests.get(message.request_id)
        if group is not None:
            group.acknowledge(message.request_id, message.sample, message.num_tokens)

    def _on_event(self, event: Event, fence: Fence, worker_ids: Sequence[str]) -> None:
        match event:
            case StepMade():
                self._out.put_step(event)
            case TokensMade():
                self._out.put_tokens(event)
            case OutputMade():
                self._out.put(from_event(event, fence, worker_ids), output_numbers(event))
            case RequestEnded() | RequestBroken():
                self._requests.pop(event.request_id, None)
                self._out.put(from_event(event, fence, worker_ids))


class Gateways:
    """All gateways that are connected."""

    def __init__(self) -> None:
        self._sessions: dict[str, GatewaySession] = {}
        self._numbers = count(1)  # of conversations
        self._readers: set[asyncio.Task[None]] = set()

    @property
    def ids(self) -> Iterable[str]:
        """Ids of the gateways that are connected."""
        return self._sessions.keys()

    async def converse(
        self, requests: AsyncIterator[controller_pb2.ConnectRequest], groups: Groups, leader_term: int
    ) -> AsyncIterator[controller_pb2.ConnectResponse]:
        """Hold one gateway's conversation until it ends.

        Raises:
            InvalidRequestError: It does not begin with a hello.
        """
        session = await self._open(requests, groups)
        session.send(controller_pb2.ConnectResponse(welcome=_welcome(leader_term)))
        session.send(_catalogue(groups))
        reader = asyncio.create_task(_read(requests, session))
        reader.add_done_callback(lambda _: session.close())  # what it sends no longer, it reads no longer
        self._readers.add(reader)
        try:
            async for message in session.messages():
                yield message
            if not reader.cancelled():
                await reader  # raises what it raised
        finally:
            reader.cancel()
            self._readers.discard(reader)
            session.close()
            if self._sessions.get(session.gateway_id) is session:
                del self._sessions[session.gateway_id]
            _LOG.info("gateway left", extra={"gateway_id": session.gateway_id})

    def close(self) -> None:
        """End all conversations."""
        for reader in self._readers:
            reader.cancel()

    def tell_catalogue(self, groups: Groups) -> None:
        """Tell every gateway which models can be called now."""
        message = _catalogue(groups)
        for session in self._sessions.values():
            session.send(message)

    async def _open(self, requests: AsyncIterator[controller_pb2.ConnectRequest], groups: Groups) -> GatewaySession:
        first = await anext(aiter(requests), None)
        if first is None or not first.hello.gateway_id:
            raise InvalidRequestError("a gateway's first message must be hello with a gateway_id", field="hello")
        session = GatewaySession(first.hello.gateway_id, groups, next(self._numbers))
        self._sessions[session.gateway_id] = session
        _LOG.info("gateway connected", extra={"gateway_id": session.gateway_id})
        return session


async def _read(requests: AsyncIterator[controller_pb2.ConnectRequest], session: GatewaySession) -> None:
    async for message in requests:
        session.take(message)


def _welcome(leader_term: int) -> controller_pb2.GatewayWelcome:
    return controller_pb2.GatewayWelcome(leader_term=leader_term, orphan_grace_s=0.0)


def _catalogue(groups: Groups) -> controller_pb2.ConnectResponse:
    return controller_pb2.ConnectResponse(catalogue=from_catalogue(groups.catalogue()))
