"""What happens before a call's handler: checks whose errors reach the client as the one table says."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from liger.errors import InvalidRequestError

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


def check_first(handler: Any, check: Callable[[Any], None]) -> Any:
    """Return the handler with `check(request)` run before it; what it raises ends the call."""
    kind = ("stream" if handler.request_streaming else "unary") + "_"
    kind += "stream" if handler.response_streaming else "unary"
    inner = getattr(handler, kind)
    checked = _checked_stream(inner, check) if handler.response_streaming else _checked_unary(inner, check)
    return handler._replace(**{kind: checked})


def _checked_unary(inner: Any, check: Callable[[Any], None]) -> Any:
    async def checked(request: Any, context: Any) -> Any:
        check(request)
        return await inner(request, context)

    return checked


def _checked_stream(inner: Any, check: Callable[[Any], None]) -> Any:
    async def checked(request: Any, context: Any) -> AsyncIterator[Any]:
        check(request)
        responses = inner(request, context)
        if inspect.isawaitable(responses):  # a handler that writes its responses itself, as health's Watch does
            await responses
            return
        async for response in responses:
            yield response

    return checked


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a request that could not be parsed."""

    error: InvalidRequestError


class WireInterceptor(grpc.aio.ServerInterceptor):
    """Refuses messages that are too large or no protobuf, clearly (gRPC alone answers UNKNOWN).

    Args:
        max_message_bytes: Largest request message.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Guard the parsing of one call's message."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        parse = handler.request_deserializer

        def deserialize(data: bytes) -> Any:
            return self._deserialize(parse, data)

        return check_first(handler._replace(request_deserializer=deserialize), _refuse_unreadable)

    def _deserialize(self, parse: Callable[[bytes], Any], data: bytes) -> Any:
        if len(data) > self._max_message_bytes:
            return Unreadable(
                InvalidRequestError(
                    f"the request is {len(data):,} bytes and this gateway takes {self._max_message_bytes:,}; send "
                    "less at once, or raise --max-message-mib"
                )
            )
        try:
            return parse(data)
        except DecodeError as error:
            hint = "; strings must be UTF-8" if "UTF-8" in str(error) else ""
            return Unreadable(InvalidRequestError(f"the request cannot be parsed: {error}{hint}"))


def _refuse_unreadable(request: Any) -> None:
    if isinstance(request, Unreadable):
        raise request.error
