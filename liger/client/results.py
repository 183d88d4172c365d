"""What the client gives back, as plain values."""

from dataclasses import dataclass

from liger.domain import FinishReason, Pooling, Task
from liger.schedule import Logprob


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # prompt tokens that the prefix cache held


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of a request went, in nanoseconds."""

    queue_ns: int  # from admission to the first segment published
    prefill_ns: int  # from there to the first token, or to the result
    decode_ns: int  # from the first token to the last
    total_ns: int  # from the gateway's first sight of the call to its last message
    compute_ns: int  # of the slowest rank: a segment computed
    exposed_communication_ns: int  # of the slowest rank: communication that no compute covered
    depth: int  # largest number of batches in flight meanwhile
    saved_prefill_ns: int = 0  # that the prefix cache saved, as predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Who computed a request."""

    group: str
    epoch: int
    worker_ids: tuple[str, ...]  # in rank order


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A generation was taken."""

    request_id: str
    model: str
    num_prompt_tokens: int
    seed: int | None  # None if greedy
    prompt_logprobs: tuple[Logprob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """More of a sample: text that is final, and the tokens that came with it."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A sample ended."""

    index: int
    reason: FinishReason
    stop: str  # the stop string or token that ended it, empty if none did
    num_tokens: int
    logprob: float | None = None  # sum over its tokens, natural logarithm; set where best_of ranked samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All samples ended."""

    usage: Usage
    timings: Timings
    placement: Placement


GenerateEvent = Started | Delta | Finished | Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class InferReply:
    """What every discriminative reply holds."""

    request_id: str
    model: str
    usage: Usage
    timings: Timings
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReply(InferReply):
    """One vector an input, in the inputs' order."""

    embeddings: tuple[tuple[float, ...], ...]
    num_tokens: tuple[int, ...]  # of each input


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """One input's labels."""

    label: str  # the most likely one
    scores: tuple[float, ...]  # by class index, in the order of ClassifyReply.labels
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyReply(InferReply):
    """One classification an input, in the inputs' order."""

    classifications: tuple[Classification, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One document's relevance."""

    index: int  # its place in the request
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankReply(InferReply):
    """Documents, most relevant first."""

    ranking: tuple[Rank, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One continuation's likelihood."""

    logprob: float  # sum over its tokens, natural logarithm
    tokens: tuple[Logprob, ...]
    greedy: bool  # whether each token was the likeliest at its place


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReply(InferReply):
    """One score an item, in the items' order."""

    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeReply:
    """A text's tokens."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]  # the vocabulary's own spelling of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a model is and can do."""

    name: str
    architecture: str
    tasks: tuple[Task, ...]
    max_length: int  # tokens, prompt and output together
    vocabulary_size: int
    hidden_size: int
    num_layers: int
    labels: tuple[str, ...]
    default_pooling: Pooling | None  # None if it cannot embed
    default_normalize: bool
    dtype: str
    num_groups: int  # groups that serve it now; 0 while all are forming
    has_chat_template: bool
