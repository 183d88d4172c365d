"""The words that controller and worker share, as plain values: no protobuf, no gRPC, no torch.

Numbers of the enums are those of `liger.v1` (a test holds them together), so that codecs convert by number.
"""

from dataclasses import dataclass, field
from enum import IntEnum


class Lane(IntEnum):
    """Where a segment runs; lanes of a rank run side by side."""

    COMPUTE = 1
    COMMUNICATION = 2


class BatchKind(IntEnum):
    """What a batch does to its sequences."""

    ENCODE = 1
    PREFILL = 2
    DECODE = 3


class SegmentKind(IntEnum):
    """What a segment does."""

    EMBED = 1
    ATTENTION = 2
    MLP = 3
    ALL_REDUCE = 4
    HEAD = 5
    GATHER = 6
    SAMPLE = 7
    SEND = 8
    RECEIVE = 9


class Task(IntEnum):
    """What a client may ask of a model."""

    GENERATE = 1
    EMBED = 2
    CLASSIFY = 3
    RERANK = 4
    SCORE = 5


class Pooling(IntEnum):
    """How the hidden states of an input become one vector."""

    MEAN = 1
    CLS = 2
    LAST = 3


class FinishReason(IntEnum):
    """Why a sequence ended."""

    STOP = 1
    LENGTH = 2
    CANCELLED = 3
    GRAMMAR = 4


class Axis(IntEnum):
    """Along what a segment is decomposed."""

    COLUMNS = 1
    ROWS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Which rule of a group a message was written under."""

    leader_term: int
    group: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment of a forward."""

    kind: SegmentKind
    lane: Lane
    layer: int
    peer: int | None = None


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
    segment: int  # which segment of that batch's forward
    lane: Lane
    piece: Piece | None = None
    participants: tuple[int, ...] = ()  # ranks that take part; empty for all


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """The order of one window's segments, for batches of given kinds."""

    id: int  # liger.digest.pattern_digest of what follows
    operands: tuple[BatchKind, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one sequence's tokens are drawn (liger.v1.SamplingParameters, with what unset means filled in)."""

    temperature: float = 0.0  # 0 takes the most likely token
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    logprobs: int | None = None  # None for none; k for the k likeliest beside the drawn one


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOutput:
    """One vector of an input's hidden states."""

    pooling: Pooling
    normalize: bool
    dimensions: int = 0  # 0 keeps all


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOutput:
    """The classification head's raw outputs of an input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOutput:
    """Log-probabilities of an input's own tokens."""

    score_from: int  # the first token whose probability counts, at least 1


EncodeOutput = PoolOutput | ClassifyOutput | ScoreOutput


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
    """What a batch gave, from rank 0."""

    batch_id: int
    token_ids: tuple[int, ...] = ()  # one for each row that samples, in row order
    logprobs: tuple[Logprob, ...] = ()  # of the rows that asked, in row order
    items: tuple[ItemResult, ...] = ()  # one for each input of an encode batch


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTimings:
    """Where a rank's time went, in nanoseconds on its own monotonic clock."""

    started_ns: int = 0
    ended_ns: int = 0
    compute_ns: int = 0
    communication_ns: int = 0
    exposed_ns: int = 0
    step_starts_ns: tuple[int, ...] = ()
    step_ends_ns: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockAppends:
    """KV blocks appended to sequences: row i gets `counts[i]` of `blocks`, one row's after another's."""

    rows: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRows:
    """Chunks of prompts, in columns."""

    rows: tuple[int, ...]
    num_tokens: tuple[int, ...]
    starts: tuple[int, ...]  # place of each chunk's first token in its sequence
    token_ids: tuple[int, ...]  # the chunks' tokens, one after another
    samples: tuple[bool, ...]  # whether a chunk ends its prompt
    appends: BlockAppends = field(default_factory=BlockAppends)


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
    output_token_ids: tuple[int, ...] = ()  # output tokens before a replay


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
    batches: tuple[BatchOutcome, ...] = ()  # rank 0 alone


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a model is and can do (liger.v1.ModelInfo)."""

    name: str  # as clients call it
    architecture: str  # class named in config.json
    tasks: tuple[Task, ...]
    max_length: int  # tokens of prompt and output together
    vocabulary_size: int
    hidden_size: int
    num_layers: int
    labels: tuple[str, ...] = ()  # of a classification head, by class index
    default_pooling: Pooling | None = None
    default_normalize: bool = False
    eos_token_ids: tuple[int, ...] = ()
    dtype: str = "float32"
    fingerprint: str = ""  # equal on all ranks of a group
    multi_label: bool = False
    num_token_types: int = 0
