"""Listens: a `grpc.aio` server with health, reflection and errors from the one table."""

import inspect
import ipaddress
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from liger.errors import ConfigError, LigerError
from liger.rpc.status import to_status

_LOG: Final = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024

SERVER_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a lottery
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)

_ADDRESS: Final = re.compile(r".+:\d{1,5}")


class RpcServer:
    """One service's server: not serving until `set_serving`, bounded in its stop.

    Args:
        interceptors: Run before errors are mapped, in this order.
        max_message_bytes: Largest request taken.
    """

    def __init__(
        self, interceptors: Sequence[grpc.aio.ServerInterceptor] = (), max_message_bytes: int = MAX_MESSAGE_BYTES
    ) -> None:
        options = [*SERVER_OPTIONS, ("grpc.max_receive_message_length", max_message_bytes)]
        self._errors = ErrorInterceptor()
        self.grpc = grpc.aio.server(interceptors=[self._errors, *interceptors], options=options)
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)

    def bind(self, address: str, *, insecure: bool = False) -> str:
        """Bind host:port and return it with the port in use (port 0 takes a free one).

        Raises:
            ConfigError: The port is in use, or the host is beyond loopback and `insecure` is not set.
        """
        if not _ADDRESS.fullmatch(address):
            raise ConfigError(f"{address!r} is no address: it must be host:port, such as 127.0.0.1:8600")
        if not is_loopback(address) and not insecure:
            raise ConfigError(
                f"refusing to listen on {address} without authentication: bind to 127.0.0.1, or pass --insecure "
                "if the network itself is trusted"
            )
        host = address.rpartition(":")[0]
        try:
            port = self.grpc.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if port == 0:
            raise ConfigError(
                f"cannot listen on {address}: the port is in use, or the host is not of this machine; choose another "
                "(port 0 takes a free one)"
            )
        return f"{host}:{port}"

    async def start(self, service_names: Sequence[str]) -> None:
        """Begin to answer; health says NOT_SERVING until `set_serving(True)`."""
        self._names = list(service_names)
        names = [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self.grpc)
        await self.set_serving(False)
        await self.grpc.start()

    async def set_serving(self, serving: bool) -> None:
        """Tell health checks whether new calls are welcome, for the server and each of its services."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, refuse new calls, let those under way finish for `grace_s` seconds."""
        await self._health.enter_graceful_shutdown()
        self._errors.is_stopping = True
        await self.grpc.stop(grace_s)


def is_loopback(address: str) -> bool:
    """Tell whether host:port can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns `LigerError` into its status, and anything else into INTERNAL without its inside."""

    def __init__(self) -> None:
        self.is_stopping = False  # calls are cut off: what they raise then is no bug

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        if handler.response_streaming:
            inner = handler.unary_stream or handler.stream_stream
            name = "unary_stream" if handler.unary_stream else "stream_stream"
            return handler._replace(**{name: self._guard_stream(inner)})
        inner = handler.unary_unary or handler.stream_unary
        name = "unary_unary" if handler.unary_unary else "stream_unary"
        return handler._replace(**{name: self._guard_unary(inner)})

    def _guard_unary(self, inner: Any) -> Any:
        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                return await inner(request, context)
            except Exception as error:  # noqa: BLE001 - the last net of a call
                await self._abort(context, error)

        return guarded

    def _guard_stream(self, inner: Any) -> Any:
        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                responses = inner(request, context)
                if inspect.isawaitable(responses):  # a handler that writes its responses itself, as health's Watch does
                    await responses
                    return
                async for response in responses:
                    yield response
            except Exception as error:  # noqa: BLE001 - the last net of a call
                await self._abort(context, error)

        return guarded

    async def _abort(self, context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
        if isinstance(error, grpc.aio.AbortError) or self.is_stopping:
            raise error
        if not isinstance(error, LigerError):
            _LOG.exception("a call failed inside", exc_info=error)
            error = LigerError("internal error; the service's log has the details")
        await context.abort_with_status(rpc_status.to_status(to_status(error)))
