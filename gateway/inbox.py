"""Where a request's events wait for the call that handles it. Filled by the link's reading loop, which never waits."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from gateway.sample import Sample
from gateway.work import ItemOutput, RequestDone, RequestEvent, SampleTokens
from liger.client.results import Delta, Finished
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


class GenerateInbox:
    """Samples that grow. What a slow reader does not take is joined, so at most its text waits, not its events.

    Args:
        samples: The request's.
        stop_sample: Called once for each sample that a stop string ended.
    """

    def __init__(self, samples: Sequence[Sample], stop_sample: Callable[[int], None]) -> None:
        self._samples = samples
        self._stop_sample = stop_sample
        self._news = asyncio.Event()
        self._error: LigerError | None = None
        self._done: RequestDone | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens given out, over all samples."""
        return sum(sample.num_tokens for sample in self._samples)

    def account(self) -> RequestDone:
        """Return the controller's account, once `events` has ended."""
        assert self._done is not None, "asked before the end"
        return self._done

    def take(self, event: RequestEvent) -> None:
        """Take tokens, or the end."""
        match event:
            case SampleTokens(sample=index) if index < len(self._samples):
                self._take_tokens(event)
            case RequestDone():
                self._check_all_ended()
                self._done = event
            case _:
                raise LigerError("the controller sent what does not belong to this generation")
        self._news.set()

    def fail(self, error: LigerError) -> None:
        """Take the request's bad end."""
        self._error = error
        self._news.set()

    async def events(self) -> AsyncGenerator[Delta | Finished, None]:
        """Give events until the request is done.

        Raises:
            LigerError: The request failed.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            for sample in self._samples:
                for event in sample.events():
                    yield event
            if self._error is not None:
                raise self._error
            if self._done is not None and not self._news.is_set():
                return

    def _take_tokens(self, event: SampleTokens) -> None:
        if self._samples[event.sample].take(event):
            self._stop_sample(event.sample)

    def _check_all_ended(self) -> None:
        if not all(sample.has_ended for sample in self._samples):
            raise LigerError("the controller ended the generation before all its samples")


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
