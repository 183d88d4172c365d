"""Where a request's events wait for the call that handles it. Filled by the link's reading loop, which never waits.

That of a generation is in `gateway.generate_inbox`.
"""

import asyncio
from typing import Protocol

from gateway.work import ItemOutput, RequestDone, RequestEvent
from liger.errors import LigerError


class Inbox(Protocol):
    """Takes one request's events."""

    def take(self, event: RequestEvent) -> None:
        """Take an event without waiting.

        Raises:
            LigerError: It cannot be right; the request is then failed.
        """

    def fail(self, error: LigerError) -> None:
        """Take the request's bad end."""


class InferInbox:
    """Outputs of inputs, until all are there."""

    def __init__(self, num_items: int) -> None:
        self._outputs: list[ItemOutput | None] = [None] * num_items
        self._ended = asyncio.Event()
        self._error: LigerError | None = None
        self._done: RequestDone | None = None

    def take(self, event: RequestEvent) -> None:
        """Take an input's outputs, or the end."""
        match event:
            case ItemOutput(item=item) if item < len(self._outputs):
                self._outputs[item] = event
            case RequestDone() if None not in self._outputs:
                self._done = event
                self._ended.set()
            case _:
                raise LigerError("the controller sent what does not belong to this request, or not all of it")

    def fail(self, error: LigerError) -> None:
        """Take the request's bad end."""
        self._error = error
        self._ended.set()

    async def result(self) -> tuple[list[ItemOutput], RequestDone]:
        """Return each input's outputs, and the account, once all are there.

        Raises:
            LigerError: The request failed.
        """
        await self._ended.wait()
        if self._error is not None:
            raise self._error
        assert self._done is not None, "ended without an account"
        return [output for output in self._outputs if output is not None], self._done
