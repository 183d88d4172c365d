"""One sample of a generative request, from waiting to released."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from controller.core.requests import GenerateWork
from liger.domain import FinishReason, Sampling
from liger.schedule import SequenceStart


class SequenceState(Enum):
    """Where a sequence is in its life."""

    WAITING = auto()  # holds nothing
    RUNNING = auto()  # holds a row and blocks; takes part in batches
    ENDED = auto()  # takes part in no new batch; holds row and blocks until its last batch is acknowledged
    RELEASED = auto()  # holds nothing any more


_TRANSITIONS: Final = {
    SequenceState.WAITING: {SequenceState.RUNNING, SequenceState.RELEASED},
    SequenceState.RUNNING: {SequenceState.ENDED},
    SequenceState.ENDED: {SequenceState.RELEASED},
    SequenceState.RELEASED: set(),
}


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A token stream; counts run ahead of results, since windows are published before their results are known."""

    request_id: str
    sample: int
    work: GenerateWork
    sampling: Sampling
    state: SequenceState = SequenceState.WAITING
    row: int = 0  # of the sequence table, while RUNNING or ENDED
    blocks: tuple[int, ...] = ()
    num_prefilled: int = 0  # prompt tokens in published batches
    num_drawn: int = 0  # output tokens in published batches
    output: list[int] = field(default_factory=list)  # output tokens committed
    num_unacknowledged: int = 0  # published batches whose results are not there yet
    is_on_ranks: bool = False  # its row has begun there
    in_batch: bool = False  # a batch that holds it has segments that are not published yet
    finish_reason: FinishReason | None = None

    def advance(self, state: SequenceState) -> None:
        """Go to another state of life."""
        assert state in _TRANSITIONS[self.state], f"{self.state} → {state}"
        self.state = state

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.work.prompt_token_ids)

    @property
    def num_tokens_at_most(self) -> int:
        """Tokens whose keys and values are ever kept: the last output's are not."""
        return self.num_prompt_tokens + self.work.max_tokens - 1

    @property
    def needs_prefill(self) -> bool:
        """Whether prompt tokens are still to be published."""
        return self.state is SequenceState.RUNNING and not self.in_batch and self.num_prefilled < self.num_prompt_tokens

    @property
    def can_decode(self) -> bool:
        """Whether its next token can be published now."""
        return self.state is SequenceState.RUNNING and not self.in_batch and 0 < self.num_drawn < self.work.max_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is published and tokens are left to draw."""
        return self.state is SequenceState.RUNNING and 0 < self.num_drawn < self.work.max_tokens

    @property
    def next_position(self) -> int:
        """Place of the next token that a decode batch computes: the last one drawn."""
        return self.num_prompt_tokens + self.num_drawn - 1

    def start(self) -> SequenceStart:
        """Return what the ranks must know of it."""
        return SequenceStart(
            row=self.row,
            sampling=self.sampling,
            sample=self.sample,
            num_prompt_tokens=self.num_prompt_tokens,
            min_tokens=self.work.min_tokens,
            stop_token_ids=tuple(sorted(self.work.stop_token_ids)),
        )

    def take(self, token_id: int) -> None:
        """Commit one output token and end if it is the last."""
        self.output.append(token_id)
        if token_id in self.work.stop_token_ids and len(self.output) > self.work.min_tokens:
            self.end(FinishReason.STOP)
        elif len(self.output) == self.work.max_tokens:
            self.end(FinishReason.LENGTH)

    def end(self, reason: FinishReason) -> None:
        """Take part in no new batch."""
        self.finish_reason = reason
        waiting = self.state is SequenceState.WAITING
        self.advance(SequenceState.RELEASED if waiting else SequenceState.ENDED)
