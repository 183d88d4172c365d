"""The gateway's one conversation with the controller, begun again after every loss.

Requests, cancels and acknowledgements go out, events come in.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import SystemRandom
from typing import Final, NoReturn, TypeVar

import grpc
import grpc.aio

from gateway.catalogue import Catalogue
from gateway.controller_codec import from_submission, to_done, to_output, to_served, to_tokens
from gateway.inbox import Inbox
from gateway.outgoing import Outgoing
from gateway.routes import Routes
from gateway.work import GenerateWork, RequestEvent, SampleTokens, Submission
from liger.domain import FinishReason
from liger.errors import InputTooLongError, LigerError, UnavailableError
from liger.rpc.channel import open_channel
from liger.rpc.server import MAX_MESSAGE_BYTES
from liger.rpc.status import from_message, from_rpc_error
from liger.v1 import controller_pb2 as pb
from liger.v1.controller_pb2_grpc import ControllerServiceStub

_LOG: Final = logging.getLogger(__name__)

FIRST_DELAY_S: Final = 0.05
LONGEST_DELAY_S: Final = 2.0
GREETING_LIMIT_S: Final = 10.0  # to connect and hear the first word
RETRY_AFTER_S: Final = 1.0
ENVELOPE_BYTES: Final = 64  # around a Submit

ToldT = TypeVar("ToldT")
MessageT = TypeVar("MessageT", pb.SampleTokens, pb.EncodeOutput, pb.RequestFinished)


def reconnect_delays() -> Iterator[float]:
    """Give the waits between attempts, in seconds: doubling up to a limit, half of each by chance."""
    delay_s = FIRST_DELAY_S
    while True:
        yield delay_s * SystemRandom().uniform(0.5, 1.0)
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)


class ControllerLink:
    """Holds the conversation and brings each request's events to its inbox.

    Args:
        address: host:port of the controller.
        gateway_id: This gateway's name.
        catalogue: Kept as the controller tells it.
        on_change: Called with whether requests can be served, whenever that changes.
    """

    def __init__(
        self, address: str, gateway_id: str, catalogue: Catalogue, on_change: Callable[[bool], Awaitable[None]]
    ) -> None:
        self._address = address
        self._gateway_id = gateway_id
        self._catalogue = catalogue
        self._on_change = on_change
        self._routes = Routes()
        self._outgoing: Outgoing | None = None  # while connected
        self._failures_told = False

    async def run(self) -> NoReturn:
        """Converse, and connect again after every loss, until cancelled."""
        delays = reconnect_delays()
        while True:
            try:
                await self._converse()
                reason = "the controller ended the conversation"
            except grpc.aio.AioRpcError as error:
                reason = from_rpc_error(error).message
            except TimeoutError:
                reason = f"no word for {GREETING_LIMIT_S:g} s"
            except (StopAsyncIteration, ValueError) as error:
                reason = f"the controller said what this gateway cannot read: {error}"
            if await self._lose(reason):
                delays = reconnect_delays()
            await asyncio.sleep(next(delays))

    @contextmanager
    def request(self, submission: Submission, inbox: Inbox) -> Iterator[None]:
        """Submit a request whose events go to `inbox`; cancel it if the block is left before its end.

        Raises:
            UnavailableError: The controller is away.
            OverloadedError: It takes requests too slowly.
            InputTooLongError: The request is too large for a message.
        """
        outgoing, work = self._connected(), submission.work
        num_samples = work.num_samples if isinstance(work, GenerateWork) else 0
        streams = self._routes.give_numbers(num_samples)
        message = from_submission(submission, streams.start if streams else None)
        if message.ByteSize() + ENVELOPE_BYTES > MAX_MESSAGE_BYTES:
            raise InputTooLongError("the request has too many tokens for one message; split it")
        outgoing.submit(message)
        self._routes.add(submission.request_id, inbox, streams)
        try:
            yield
        finally:
            if self._routes.remove(submission.request_id) is not None:
                self.cancel(submission.request_id, None, FinishReason.CANCELLED)

    def cancel(self, request_id: str, sample: int | None, reason: FinishReason) -> None:
        """Tell the controller that nobody waits for a request, or for one sample of it, any more."""
        if self._outgoing is not None:
            self._outgoing.cancel(request_id, sample, reason)

    def acknowledge(self, request_id: str, sample: int, num_tokens: int) -> None:
        """Tell the controller how many tokens of a sample its client has taken; nothing once the request has ended."""
        if self._outgoing is not None and request_id in self._routes:
            self._outgoing.acknowledge(request_id, sample, num_tokens)

    def _connected(self) -> Outgoing:
        if self._outgoing is None:
            raise UnavailableError(
                "the gateway is not connected to the controller; try again", retry_after_s=RETRY_AFTER_S
            )
        return self._outgoing

    async def _converse(self) -> None:
        outgoing = Outgoing(self._gateway_id)
        async with open_channel(self._address) as channel:
            responses = aiter(ControllerServiceStub(channel).Connect(outgoing.messages()))
            async with asyncio.timeout(GREETING_LIMIT_S):
                await self._take(await anext(responses))
            self._outgoing = outgoing
            async for message in responses:
                await self._take(message)

    async def _lose(self, reason: str) -> bool:
        """Fail what was under way; return whether there had been a conversation."""
        was_connected = self._outgoing is not None
        self._outgoing = None
        self._catalogue.forget()
        for inbox in self._routes.clear():
            inbox.fail(UnavailableError("the gateway lost the controller; try again", retry_after_s=RETRY_AFTER_S))
        if was_connected:
            await self._on_change(False)
        level = logging.DEBUG if self._failures_told else logging.WARNING
        self._failures_told = True
        _LOG.log(level, "not connected to the controller", extra={"controller": self._address, "reason": reason})
        return was_connected

    async def _take(self, message: pb.ConnectResponse) -> None:
        match message.WhichOneof("message"):
            case "welcome":
                self._failures_told = False
                _LOG.info("connected to the controller", extra={"controller": self._address})
            case "catalogue":
                self._catalogue.replace(to_served(entry) for entry in message.catalogue.entries)
                await self._on_change(True)
            case "tokens":
                self._deliver(message.tokens, to_tokens)
            case "step":
                self._take_step(message.step)
            case "output":
                self._deliver(message.output, to_output)
            case "finished":
                self._deliver(message.finished, to_done, is_last=True)
            case "failed":
                inbox = self._routes.remove(message.failed.request_id)
                if inbox is not None:
                    inbox.fail(from_message(message.failed.error))

    def _take_step(self, step: pb.StepTokens) -> None:
        for number, offset, token_id in zip(step.streams, step.offsets, step.token_ids, strict=True):
            route = self._routes.find_stream(number)
            if route is not None:
                tokens = SampleTokens(sample=route.sample, offset=offset, token_ids=(token_id,))
                self._hand(route.request_id, route.inbox, tokens, _as_it_is)
        for part in step.tokens:
            self._deliver(part, to_tokens)

    def _deliver(self, message: MessageT, read: Callable[[MessageT], RequestEvent], *, is_last: bool = False) -> None:
        request_id = message.request_id
        inbox = self._routes.remove(request_id) if is_last else self._routes.find(request_id)
        if inbox is not None:  # else it was given up; the controller did not know yet
            self._hand(request_id, inbox, message, read)

    def _hand(self, request_id: str, inbox: Inbox, told: ToldT, read: Callable[[ToldT], RequestEvent]) -> None:
        try:
            inbox.take(read(told))
        except Exception as error:  # noqa: BLE001 - one request's trouble must not end the others' conversation
            _LOG.exception("an event could not be taken", extra={"request_id": request_id})
            failure = error if isinstance(error, LigerError) else LigerError("internal error; see the gateway's log")
            inbox.fail(failure)
            if self._routes.remove(request_id) is not None:
                self.cancel(request_id, None, FinishReason.CANCELLED)


def _as_it_is(tokens: SampleTokens) -> SampleTokens:
    return tokens
