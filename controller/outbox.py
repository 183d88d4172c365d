"""What one gateway is still to be told, in order: bounded by what it weighs, tokens of many samples in one message."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from controller.codec.gateways import add_columns, add_tokens, extend_tokens
from controller.core.events import OutputMade, StepMade, TokensMade
from liger.v1 import controller_pb2

MAX_WEIGHT: Final = 1 << 24  # of what waits; more means that nobody reads
MAX_STEP_WEIGHT: Final = 1 << 16  # of a message that tokens still join: it must stay far below the largest message

_COLUMNS: Final = 3  # numbers of a token in columns
_PART: Final = 16  # weight of a message, or of a sample's part of one, beside its numbers


@dataclass(slots=True)
class _Waiting:
    message: controller_pb2.ConnectResponse
    weight: int
    samples: dict[tuple[str, int], controller_pb2.SampleTokens] = field(default_factory=dict)  # of a step, its parts


class Outbox:
    """The messages for one gateway.

    Weights are numbers: token ids, likelihoods, elements of vectors. Tokens join the last message of tokens that still
    waits, so that what one window gave, or several while the gateway reads slowly, is one message. That keeps the
    order of each request's events, because nothing but tokens joins, columns join only columns (in a message they come
    before samples' parts), and `seal` keeps a new request apart from an older one with its id.
    """

    def __init__(self) -> None:
        self.is_overfull = False  # more came than a gateway that reads would leave; what came since is lost
        self._waiting: deque[_Waiting] = deque()
        self._step: _Waiting | None = None  # that tokens join; one of those that wait
        self._weight = 0
        self._filled = asyncio.Event()
        self._is_closed = False

    def put(self, message: controller_pb2.ConnectResponse, num_numbers: int = 0) -> None:
        """Queue a message that holds so many numbers."""
        if not self.is_overfull:
            waiting = _Waiting(message, 0)
            self._append(waiting)
            self._add_weight(waiting, _PART + num_numbers)

    def put_step(self, event: StepMade) -> None:
        """Queue one token each of some samples."""
        if self.is_overfull:
            return
        if self._step is not None and self._step.samples:
            self._step = None
        step = self._open_step()
        add_columns(step.message.step, event)
        self._add_weight(step, _PART + _COLUMNS * len(event.token_ids))

    def put_tokens(self, event: TokensMade) -> None:
        """Queue a sample's tokens."""
        if self.is_overfull:
            return
        step = self._open_step()
        key = (event.request_id, event.sample)
        part = step.samples.get(key)
        if part is None:
            step.samples[key] = add_tokens(step.message.step, event)
        else:
            extend_tokens(part, event)
        self._add_weight(step, _PART + _num_numbers(event))

    def seal(self) -> None:
        """Let no further tokens join what waits."""
        self._step = None

    def close(self) -> None:
        """Give nothing any more."""
        self._is_closed = True
        self._filled.set()

    async def get(self) -> controller_pb2.ConnectResponse | None:
        """Wait for the next message and take it; None once the outbox is closed."""
        while not self._waiting and not self._is_closed:
            self._filled.clear()
            await self._filled.wait()
        if self._is_closed:
            return None
        taken = self._waiting.popleft()
        if taken is self._step:
            self._step = None
        self._weight -= taken.weight
        return taken.message

    def _open_step(self) -> _Waiting:
        """Return the message that tokens join; a new one where there is none, or where it has grown large."""
        step = self._step
        if step is None or step.weight > MAX_STEP_WEIGHT:
            step = self._step = _Waiting(controller_pb2.ConnectResponse(step=controller_pb2.StepTokens()), 0)
            self._append(step)
        return step

    def _append(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._filled.set()

    def _add_weight(self, waiting: _Waiting, weight: int) -> None:
        waiting.weight += weight
        self._weight += weight
        if self._weight > MAX_WEIGHT:
            self.is_overfull = True


def output_numbers(event: OutputMade) -> int:
    """Return how many numbers an input's outputs are."""
    return len(event.result.values) + sum(2 + 2 * len(each.top_token_ids) for each in event.result.logprobs)


def _num_numbers(event: TokensMade) -> int:
    if not event.logprobs and not event.prompt_logprobs:
        return len(event.token_ids)
    likelihoods = (*event.logprobs, *event.prompt_logprobs)
    return len(event.token_ids) + sum(2 + 2 * len(each.top_token_ids) for each in likelihoods)
