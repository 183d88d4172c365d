"""The words that all parts share, as plain values: no protobuf, no gRPC, no torch.

Numbers of the enums are those of `liger.v1` (a test holds them together), so that codecs convert by number. What
travels between controller and ranks is in `liger.schedule`.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum


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
class Sampling:
    """How one sequence's tokens are drawn (liger.v1.SamplingParameters, with what unset means filled in)."""

    temperature: float = 0.0  # 0 takes the most likely token
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (vocabulary id, bias), by id
    allowed_token_ids: tuple[int, ...] = ()  # by id; empty for all
    banned_token_ids: tuple[int, ...] = ()  # by id
    seed: int = 0
    logprobs: int | None = None  # None for none; k for the k likeliest beside the drawn one

    @property
    def has_penalties(self) -> bool:
        """Whether what was seen before changes what is drawn."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


class ConstraintKind(StrEnum):
    """In which language a constraint is written; the values are the fields of liger.v1.StructuredOutput."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "grammar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What must hold of a whole output (liger.v1.StructuredOutput)."""

    kind: ConstraintKind
    text: str


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
