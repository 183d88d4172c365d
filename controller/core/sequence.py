"""One sample of a generative request, from waiting to released."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from controller.core.block_manager import block_digests
from controller.core.charges import Charges
from controller.core.events import Stream
from controller.core.queues import Order
from controller.core.requests import GenerateWork, Request
from liger.domain import FinishReason, Sampling
from liger.schedule import SequenceStart

_START_BYTES: Final = 100  # of a sequence's start, in a message; and of what it may hold
_BIAS_BYTES: Final = 15
_ID_BYTES: Final = 5


class SequenceState(Enum):
    """Where a sequence is in its life."""

    WAITING = auto()  # holds nothing
    RUNNING = auto()  # holds a row and blocks; takes part in batches
    PREEMPTED = auto()  # takes part in no new batch; WAITING again once its last batch is acknowledged
    ENDED = auto()  # takes part in no new batch; holds row and blocks until its last batch is acknowledged
    RELEASED = auto()  # holds nothing any more


_TRANSITIONS: Final = {
    SequenceState.WAITING: {SequenceState.RUNNING, SequenceState.RELEASED},
    SequenceState.RUNNING: {SequenceState.PREEMPTED, SequenceState.ENDED},
    SequenceState.PREEMPTED: {SequenceState.WAITING, SequenceState.ENDED},
    SequenceState.ENDED: {SequenceState.RELEASED},
    SequenceState.RELEASED: set(),
}


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A token stream; counts run ahead of results, since windows are published before their results are known.

    Its tokens are the prompt's, then the output's. Those that it knows when it begins to run (after a preemption part
    of the output too) are computed by chunks, every later one by a decode batch.
    """

    request_id: str
    sample: int
    work: GenerateWork
    sampling: Sampling
    stream: Stream | None = None  # by which its gateway knows it
    charges: Charges = field(default_factory=Charges)  # its request's
    order: Order = (0, 0, 0)  # lower goes first
    followers: list["Sequence"] = field(default_factory=list)  # samples that begin with this one's first token
    state: SequenceState = SequenceState.WAITING
    row: int = 0  # of the sequence table, while it holds one
    blocks: list[int] = field(default_factory=list)  # its block table
    num_told: int = 0  # of them known to the ranks
    num_ready: int = 0  # tokens, of which those that come next can be written: their blocks are known and its own
    num_to_prefill: int = 0  # tokens that chunks compute: those known when it began to run
    num_prefilled: int = 0  # of them found in the prefix cache or in published batches
    num_drawn: int = 0  # output tokens in published batches
    output: list[int] = field(default_factory=list)  # output tokens committed
    num_read: int = 0  # of them taken by the client, as far as its gateway has told
    num_cached: int = 0  # prompt tokens found in the prefix cache when it first ran
    digests: tuple[bytes, ...] = ()  # of its full blocks, as far as they were needed
    num_findable: int = 0  # full blocks published to the prefix cache
    num_promised: int = 0  # blocks that it was admitted with, and has not got yet
    num_queued_tokens: int = 0  # while it is queued: what must be computed of it, as far as is known
    num_unacknowledged: int = 0  # published batches whose results are not there yet
    is_on_ranks: bool = False  # its row has begun there
    is_queued: bool = False
    start_bytes: int = 0  # see the function
    in_batch: bool = False  # a batch that holds it has segments that are not published yet
    has_run: bool = False
    gave_prompt_logprobs: bool = False
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
    def num_known(self) -> int:
        """Tokens of the prompt and of the committed output."""
        return len(self.work.prompt_token_ids) + len(self.output)

    @property
    def needs_prefill(self) -> bool:
        """Whether a chunk of it can be published now."""
        return self.state is SequenceState.RUNNING and not self.in_batch and self.num_prefilled < self.num_to_prefill

    @property
    def is_decoding(self) -> bool:
        """Whether what it began with is published and tokens are left to draw."""
        return (
            self.state is SequenceState.RUNNING
            and self.num_prefilled == self.num_to_prefill
            and self.num_drawn < self.work.max_tokens
        )

    @property
    def next_position(self) -> int:
        """Place of the next token that a decode batch computes: the last one drawn."""
        return len(self.work.prompt_token_ids) + self.num_drawn - 1

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the prompt's likelihoods are to come from it: from one sample, once."""
        return self.work.prompt_logprobs is not None and self.sample == 0 and not self.gave_prompt_logprobs

    def token_ids(self, start: int, stop: int) -> tuple[int, ...]:
        """Return some of its tokens, by place; they are known."""
        prompt = self.work.prompt_token_ids
        if stop <= len(prompt):
            return prompt[start:stop]
        output = self.output[max(0, start - len(prompt)) : stop - len(prompt)]
        return (*prompt[start:], *output)

    def digests_of(self, num_blocks: int, block_size: int) -> tuple[bytes, ...]:
        """Return the digests of its first full blocks, whose tokens are known."""
        if len(self.digests) < num_blocks:
            fresh = self.token_ids(len(self.digests) * block_size, num_blocks * block_size)
            self.digests += block_digests(fresh, block_size, self.digests[-1] if self.digests else b"")
        return self.digests[:num_blocks]

    def begin(self, row: int, cached: tuple[int, ...], block_size: int) -> None:
        """Run, with a row and the blocks that the prefix cache holds of it."""
        self.advance(SequenceState.RUNNING)
        self.row, self.blocks, self.num_ready = row, list(cached), 0
        self.num_to_prefill, self.num_drawn = self.num_known, len(self.output)
        self.num_prefilled, self.num_findable = len(cached) * block_size, len(cached)
        if not self.has_run:
            self.num_cached, self.has_run = self.num_prefilled, True

    def start(self) -> SequenceStart:
        """Return what the ranks must know of it."""
        sampling, work = self.sampling, self.work
        needs_prompt = sampling.repetition_penalty != 1.0 or self.wants_prompt_logprobs
        needs_output = sampling.has_penalties or work.constraint is not None
        return SequenceStart(
            row=self.row,
            sampling=sampling,
            sample=self.sample,
            num_prompt_tokens=self.num_prompt_tokens,
            min_tokens=work.min_tokens,
            stop_token_ids=tuple(sorted(work.stop_token_ids)),
            output_token_ids=tuple(self.output) if needs_output else (),
            prompt_token_ids=work.prompt_token_ids if needs_prompt else (),
            prompt_logprobs=work.prompt_logprobs if self.wants_prompt_logprobs else None,
            constraint=work.constraint,
        )

    def take(self, token_id: int) -> FinishReason | None:
        """Commit one output token and end if it is the last; return why it ended."""
        output, work = self.output, self.work
        output.append(token_id)
        if token_id in work.stop_token_ids and (  # a grammar outranks the fewest tokens
            len(output) > work.min_tokens or work.constraint is not None
        ):
            self.end(FinishReason.STOP)
        elif len(output) == work.max_tokens:
            self.end(FinishReason.LENGTH)
        return self.finish_reason

    def end(self, reason: FinishReason) -> None:
        """Take part in no new batch."""
        self.finish_reason = reason
        waiting = self.state is SequenceState.WAITING
        self.advance(SequenceState.RELEASED if waiting else SequenceState.ENDED)


def start_bytes(work: GenerateWork, sampling: Sampling) -> int:
    """Return about how much the ranks are told when a sample begins; its output, after a preemption, comes on top."""
    ids = len(sampling.allowed_token_ids) + len(sampling.banned_token_ids) + len(work.stop_token_ids)
    if sampling.repetition_penalty != 1.0 or work.prompt_logprobs is not None:
        ids += len(work.prompt_token_ids)
    text = len(work.constraint.text.encode()) if work.constraint is not None else 0
    return _START_BYTES + _BIAS_BYTES * len(sampling.logit_bias) + _ID_BYTES * ids + text


def samples_of(request: Request, work: GenerateWork, opened: int, charges: Charges) -> list[Sequence]:
    """Return the samples of a request that was `opened` then; their batches add to its charges."""
    num_bytes = start_bytes(work, work.samplings[0])
    return [
        Sequence(
            request_id=request.request_id,
            sample=sample,
            stream=_stream(request, sample),
            charges=charges,
            work=work,
            sampling=sampling,
            order=(-request.priority, opened, sample),
            start_bytes=num_bytes,
        )
        for sample, sampling in enumerate(work.samplings)
    ]


def _stream(request: Request, sample: int) -> Stream | None:
    if request.first_stream is None:
        return None
    return Stream(request.conversation, request.first_stream + sample, request.request_id, sample)
