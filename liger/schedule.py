"""What controller and ranks say to one another, as plain values: patterns, windows, batches, and what came of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, NamedTuple, overload

from liger.domain import Axis, BatchKind, Constraint, EncodeOutput, Fence, Lane, Sampling, SegmentKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment of a forward."""

    kind: SegmentKind
    lane: Lane
    layer: int
    peer: int | None = None  # of sends and receives: the other stage
    stage: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a segment that was decomposed: piece `index` of `count` along `axis`."""

    axis: Axis
    index: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One launch of a pattern."""

    operand: int  # which of the window's batches
    segment: int  # which segment of that batch's forward, from where the batch stands when the window begins
    lane: Lane
    piece: Piece | None = None
    participants: tuple[int, ...] = ()  # ranks that take part; empty for all


MAX_PATTERNS: Final = 8192
"""A controller sends a pattern again, and a rank forgets it, once so many others were learnt after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """The order of one window's segments, for batches of given kinds."""

    id: int  # liger.digest.pattern_digest of what follows
    operands: tuple[BatchKind, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprob:
    """The likelihood of one token and of its rivals."""

    token_id: int
    logprob: float
    top_token_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """What an encode batch gave for one input."""

    values: tuple[float, ...] = ()
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOutcome:
    """What a batch gave."""

    batch_id: int
    token_ids: tuple[int, ...] = ()  # one for each row that samples, in row order, each followed by its forks
    logprobs: tuple[Logprob, ...] = ()  # of the rows that asked, in the same order
    items: tuple[ItemResult, ...] = ()  # one for each input of an encode batch
    prompt_logprobs: tuple[Logprob, ...] = ()  # of chunks whose rows asked, see PrefillRows.num_predicted


class StepSpan(NamedTuple):
    """When one step ran, in nanoseconds on the rank's own monotonic clock."""

    window: int  # it was launched in: the one that is acknowledged, or for exchanges an earlier one
    step: int  # its place in that window's pattern
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class StepSpans(Sequence[StepSpan]):
    """Spans in columns, for there are very many; all equally long."""

    windows: Sequence[int] = ()
    steps: Sequence[int] = ()
    begins_ns: Sequence[int] = ()
    ends_ns: Sequence[int] = ()

    @classmethod
    def of(cls, spans: Iterable[StepSpan]) -> "StepSpans":
        """Return spans in columns."""
        return spans if isinstance(spans, StepSpans) else cls(*zip(*spans, strict=True))

    def __len__(self) -> int:
        return len(self.windows)

    @overload
    def __getitem__(self, place: int) -> StepSpan: ...
    @overload
    def __getitem__(self, place: slice) -> "StepSpans": ...
    def __getitem__(self, place: int | slice) -> "StepSpan | StepSpans":
        if isinstance(place, slice):
            return StepSpans(self.windows[place], self.steps[place], self.begins_ns[place], self.ends_ns[place])
        return StepSpan(self.windows[place], self.steps[place], self.begins_ns[place], self.ends_ns[place])


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTimings:
    """Where a rank's time went, in nanoseconds on its own monotonic clock."""

    started_ns: int = 0
    ended_ns: int = 0
    compute_ns: int = 0
    communication_ns: int = 0  # of the exchanges that ended since the last window's end
    exposed_ns: int = 0  # the compute lane waited
    batch_compute_ns: tuple[int, ...] = ()  # by operand
    batch_exposed_ns: tuple[int, ...] = ()  # by operand
    spans: Sequence[StepSpan] = ()  # steps that ended since the last window's end; of timed windows


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockAppends:
    """KV blocks that sequences get before a batch; first blocks are copied, then others appended.

    Row i of `rows` gets `counts[i]` of `blocks`, one row's after another's. Row i of `copy_rows`, whose last block is
    the shared `copy_sources[i]`, gets its copy `copy_targets[i]` in its place.
    """

    rows: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    copy_rows: tuple[int, ...] = ()
    copy_sources: tuple[int, ...] = ()
    copy_targets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRows:
    """Chunks of prompts, in columns."""

    rows: tuple[int, ...]
    num_tokens: tuple[int, ...]
    starts: tuple[int, ...]  # place of each chunk's first token in its sequence
    token_ids: tuple[int, ...]  # the chunks' tokens, one after another
    samples: tuple[bool, ...]  # whether a chunk ends its prompt
    appends: BlockAppends = field(default_factory=BlockAppends)
    fork_counts: tuple[int, ...] = ()  # rows that begin as copies of each chunk's and draw with it; empty for none
    fork_rows: tuple[int, ...] = ()  # those rows, one chunk's after another's

    def forks(self) -> tuple[tuple[int, ...], ...]:
        """Return the rows that begin as copies of each chunk's."""
        ends = tuple(accumulate(self.fork_counts)) or (0,) * len(self.rows)
        starts = (0, *ends)
        return tuple(self.fork_rows[start:end] for start, end in zip(starts, ends, strict=False))

    @staticmethod
    def num_predicted(start: int, num_tokens: int, num_prompt_tokens: int) -> int:
        """Return how many of the prompt's tokens a chunk predicts: the one after each of its own, up to the last."""
        return max(0, min(start + num_tokens, num_prompt_tokens - 1) - start)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRows:
    """One token of each sequence; the last token is known to the ranks alone."""

    rows: tuple[int, ...]
    positions: tuple[int, ...]  # place of each row's next token to compute
    appends: BlockAppends = field(default_factory=BlockAppends)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRows:
    """Whole inputs of one forward, in columns."""

    num_tokens: tuple[int, ...]
    token_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]  # empty for all 0
    outputs: tuple[EncodeOutput, ...]


BatchRows = PrefillRows | DecodeRows | EncodeRows


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStart:
    """A batch that begins in a window."""

    batch_id: int
    kind: BatchKind
    slot: int
    rows: BatchRows
    after_batch_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceStart:
    """What a rank keeps of a sequence while it runs."""

    row: int
    sampling: Sampling
    sample: int  # which sample of its request; part of the noise's key
    num_prompt_tokens: int
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    output_token_ids: tuple[int, ...] = ()  # output tokens before a replay or a preemption
    prompt_token_ids: tuple[int, ...] = ()  # where a penalty or the prompt's likelihoods need it whole
    prompt_logprobs: int | None = None  # see Sampling.logprobs, of the prompt's tokens
    constraint: Constraint | None = None  # of the whole output


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One published window of the schedule."""

    fence: Fence
    number: int  # 1, 2, 3 … within the epoch
    pattern_id: int
    batch_ids: tuple[int, ...]  # the batch behind each operand of the pattern
    sequence_starts: tuple[SequenceStart, ...] = ()
    sequence_ends: tuple[int, ...] = ()
    batch_starts: tuple[BatchStart, ...] = ()
    order_digest: int = 0
    timed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOutcome:
    """A rank's acknowledgement of one window."""

    fence: Fence
    number: int
    launched_digest: int
    sampled_digest: int
    timings: WindowTimings
    batches: tuple[BatchOutcome, ...] = ()  # the first rank of the last stage alone
