"""Where a generation's tokens wait for its client, and what of them the client has taken."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from typing import Final, Protocol

from gateway.sample import Sample
from gateway.work import RequestDone, RequestEvent, SampleTokens
from liger.client.results import Delta, Finished
from liger.errors import LigerError
from liger.schedule import Logprob

ACKNOWLEDGE_EVERY: Final = 64  # tokens of a sample


class Upstream(Protocol):
    """What the controller is to know of a request's samples."""

    def stop(self, sample: int) -> None:
        """Tell that a stop string ended a sample; called once for each."""

    def acknowledge(self, sample: int, num_tokens: int) -> None:
        """Tell how many tokens of a sample its client has taken in all."""


class GenerateInbox:
    """Samples that grow. What a slow reader does not take is joined, so at most its text waits, not its events.

    Nor does that grow without end: tokens are acknowledged as the client takes them, and the controller lets no sample
    run far ahead of that. Where samples are ranked, the client takes nothing before their end; they wait here whole,
    and count as taken when they come.

    Args:
        samples: The request's.
        upstream: Where the controller is told of them.
        num_given: How many of them the client gets: all, or the likeliest, best first, once all have ended.
    """

    def __init__(self, samples: Sequence[Sample], upstream: Upstream, *, num_given: int) -> None:
        self._samples = samples
        self._upstream = upstream
        self._num_given = num_given
        self._is_ranked = num_given < len(samples)
        self._given = [0] * len(samples)  # tokens that the client has, by sample
        self._acknowledged = [0] * len(samples)  # of them those that the controller knows of
        self._prompt_logprobs: tuple[Logprob, ...] = ()
        self._begun = asyncio.Event()  # the first sample has, or the request has ended
        self._news = asyncio.Event()
        self._error: LigerError | None = None
        self._done: RequestDone | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens made, over all samples."""
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
                self._begun.set()
            case _:
                raise LigerError("the controller sent what does not belong to this generation")
        self._news.set()

    def fail(self, error: LigerError) -> None:
        """Take the request's bad end."""
        self._error = error
        self._begun.set()
        self._news.set()

    async def prompt_logprobs(self, num_tokens: int) -> tuple[Logprob, ...]:
        """Return the likelihoods of the prompt's tokens, once the first sample has begun.

        Args:
            num_tokens: How many there must be.

        Raises:
            LigerError: The request failed, or there are not so many.
        """
        await self._begun.wait()
        if self._error is not None:
            raise self._error
        if len(self._prompt_logprobs) != num_tokens:
            raise LigerError(
                f"the ranks gave {len(self._prompt_logprobs)} likelihoods of the prompt's tokens, not {num_tokens}"
            )
        found, self._prompt_logprobs = self._prompt_logprobs, ()
        return found

    async def events(self) -> AsyncGenerator[Delta | Finished, None]:
        """Give events until the request is done.

        Raises:
            LigerError: The request failed.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            for sample, event in self._ready():
                yield event
                if isinstance(event, Delta):  # asked for more: the client's stream has taken it
                    self._count(sample, len(event.token_ids))
            if self._error is not None:
                raise self._error
            if self._done is not None and not self._news.is_set():
                return

    def _ready(self) -> Iterator[tuple[int, Delta | Finished]]:
        """Give each event that the client may have now, with the number of its sample."""
        if not self._is_ranked:
            for index, sample in enumerate(self._samples):
                for event in sample.events():
                    yield index, event
        elif self._done is not None:
            for place, index in enumerate(self._likeliest()):
                for event in self._samples[index].events():
                    yield index, replace(event, index=place)

    def _likeliest(self) -> list[int]:
        """Return the samples to give, the likeliest by a mean token first; of equal ones the earlier first."""
        order = sorted(range(len(self._samples)), key=lambda index: -self._samples[index].mean_logprob)
        return order[: self._num_given]

    def _take_tokens(self, event: SampleTokens) -> None:
        index = event.sample
        sample = self._samples[index]
        before = sample.num_tokens
        if sample.take(event):
            self._upstream.stop(index)
        if self._is_ranked:
            self._count(index, sample.num_tokens - before)
        if index == 0:
            self._prompt_logprobs = event.prompt_logprobs or self._prompt_logprobs
            self._begun.set()

    def _count(self, index: int, num_tokens: int) -> None:
        """Count tokens of a sample as taken; tell so now and then, while there may be more of it."""
        self._given[index] += num_tokens
        is_due = self._given[index] - self._acknowledged[index] >= ACKNOWLEDGE_EVERY
        if is_due and not self._samples[index].has_ended:
            self._acknowledged[index] = self._given[index]
            self._upstream.acknowledge(index, self._given[index])

    def _check_all_ended(self) -> None:
        if not all(sample.has_ended for sample in self._samples):
            raise LigerError("the controller ended the generation before all its samples")
