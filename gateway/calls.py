"""The calls under way: bounded, each request id once, refused while draining."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from gateway.identity import current_identity
from gateway.work import CallContext
from liger.errors import (
    DeadlineError,
    DuplicateRequestError,
    InvalidRequestError,
    LigerError,
    OverloadedError,
    UnavailableError,
)

_LOG: Final = logging.getLogger(__name__)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
RETRY_AFTER_S: Final = 1.0


class Calls:
    """Admits calls and remembers them until they end.

    Args:
        max_requests: Calls under way at once.
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._under_way: set[str] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def admit(
        self, method: str, request_id: str, timeout_s: float | None, trace_context: Mapping[str, str]
    ) -> Iterator[CallContext]:
        """Hold a call's place while it is under way.

        Args:
            method: Name of the RPC, for the log.
            request_id: The client's; empty lets this make one.
            timeout_s: Time left until the client's deadline.
            trace_context: W3C headers that came with the call.

        Raises:
            InvalidRequestError: The request id has other characters than allowed.
            DuplicateRequestError: A call with this id is under way.
            DeadlineError: The deadline is over.
            OverloadedError: Too many calls are under way.
            UnavailableError: The gateway is draining.
        """
        started_ns = time.monotonic_ns()
        subject = current_identity().subject
        request_id = self._begin(request_id, timeout_s)
        deadline_ns = None if timeout_s is None else started_ns + round(timeout_s * 1e9)
        outcome = "CANCELLED"  # unless one of the two below is reached
        try:
            yield CallContext(
                request_id=request_id, started_ns=started_ns, deadline_ns=deadline_ns, trace_context=trace_context
            )
            outcome = "OK"
        except Exception as error:
            outcome = error.reason if isinstance(error, LigerError) else "INTERNAL"
            raise
        finally:
            self._end(request_id)
            seconds = round((time.monotonic_ns() - started_ns) / 1e9, 6)
            fields = {"method": method, "request_id": request_id, "outcome": outcome, "seconds": seconds}
            _LOG.info("call ended", extra={**fields, "subject": subject})

    def refuse_new(self) -> None:
        """Refuse calls from now on."""
        self._draining = True

    async def all_ended(self) -> None:
        """Return when no call is under way."""
        await self._idle.wait()

    def _begin(self, request_id: str, timeout_s: float | None) -> str:
        if request_id and not _REQUEST_ID.fullmatch(request_id):
            raise InvalidRequestError(
                "request_id must be 1 to 128 characters of A-Z a-z 0-9 . _ : - (or empty to have one made)",
                field="request_id",
            )
        if request_id in self._under_way:
            raise DuplicateRequestError(
                f"request {request_id} is under way; wait for its end or choose another request_id", field="request_id"
            )
        if self._draining:
            raise UnavailableError(
                "this gateway is stopping; call another one, or try again", retry_after_s=RETRY_AFTER_S
            )
        if len(self._under_way) >= self._max_requests:
            raise OverloadedError(
                f"{self._max_requests} calls are under way, the most this gateway takes; try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlineError("the deadline was over when the call came")
        chosen = request_id or uuid.uuid4().hex
        self._under_way.add(chosen)
        self._idle.clear()
        return chosen

    def _end(self, request_id: str) -> None:
        self._under_way.discard(request_id)
        if not self._under_way:
            self._idle.set()
