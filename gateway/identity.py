"""Who calls: an interceptor puts the caller's identity into the call's context."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from gateway.interception import Continuation, check_first

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls."""

    subject: str  # stable name, for logs and quotas


ANONYMOUS: Final = Identity("anonymous")
_CURRENT: Final[ContextVar[Identity]] = ContextVar("identity", default=ANONYMOUS)


def current_identity() -> Identity:
    """Return who makes the call that is being handled."""
    return _CURRENT.get()


class Authenticator(Protocol):
    """Finds out who calls."""

    def authenticate(self, metadata: Metadata) -> Identity:
        """Return the caller's identity.

        Raises:
            UnauthenticatedError: It is not known.
        """


class AllowAll:
    """Lets everybody in. Listening beyond loopback then takes `--insecure`."""

    def authenticate(self, metadata: Metadata) -> Identity:  # noqa: ARG002 - the protocol's argument
        """Return the anonymous identity."""
        return ANONYMOUS


class IdentityInterceptor(grpc.aio.ServerInterceptor):
    """Sets `current_identity` for the handler of each call."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Authenticate one call."""
        handler = await continuation(handler_call_details)
        metadata = handler_call_details.invocation_metadata

        def authenticate(_request: Any) -> None:
            _CURRENT.set(self._authenticator.authenticate(metadata))

        return handler and check_first(handler, authenticate)
