"""What clients ask for, checked: no message type, every value in range."""

from dataclasses import dataclass

from gateway.model import Model
from liger.domain import Constraint, Pooling, Sampling

TokenIds = tuple[int, ...]
Content = str | TokenIds
"""An input: text, or token ids taken as they are."""

TextPair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, to be laid out by the model's chat template."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """When a sample ends."""

    max_tokens: int | None  # None for the default
    min_tokens: int
    strings: tuple[str, ...]
    token_ids: TokenIds  # the client's; the model's own are added unless ignore_eos
    include_stop: bool
    ignore_eos: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A Generate call."""

    model: Model
    priority: int
    prompt: str | Conversation | TokenIds
    prompt_field: str  # of the request, for errors
    sampling: Sampling  # with seed 0 if the client gave none; with logprobs also where samples are ranked
    seed: int | None  # the client's
    num_samples: int  # to run
    num_given: int  # of them: if fewer than run, the likeliest
    shows_logprobs: bool  # whether the client asked for log-probabilities
    prompt_logprobs: int | None  # None for none; k for the k likeliest beside the prompt's own tokens
    constraint: Constraint | None
    stop: StopRules

    @property
    def is_ranked(self) -> bool:
        """Whether samples are held back until the likeliest of them are known."""
        return self.num_given < self.num_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """One vector of each input."""

    inputs: tuple[Content, ...]
    pooling: Pooling
    normalize: bool
    dimensions: int  # 0 keeps all


@dataclass(frozen=True, slots=True, kw_only=True)
class Classify:
    """Probabilities of the head's labels for each input."""

    inputs: tuple[Content, ...]  # empty if pairs are to be classified
    pairs: tuple[TextPair, ...]
    raw: bool  # the head's raw outputs instead


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyByLabels:
    """Labels by their likelihood as what follows each input, for models without a classification head."""

    inputs: tuple[Content, ...]
    labels: tuple[str, ...]  # at least two, all different
    raw: bool  # log-likelihoods instead of probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerank:
    """Documents by relevance to a query."""

    pairs: tuple[TextPair, ...]  # the query and each document
    top_n: int
    raw: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Likelihood of continuations."""

    items: tuple[tuple[Content, Content], ...]  # context, continuation


InferTask = Embed | Classify | ClassifyByLabels | Rerank | Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """An Infer call."""

    model: Model
    priority: int
    truncate: bool
    task: InferTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """A Tokenize call."""

    model: Model
    content: str | Conversation
    add_special_tokens: bool
