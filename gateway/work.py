"""What the gateway and the controller say to each other, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from liger.client.results import Placement, Timings, Usage
from liger.domain import ClassifyOutput, Constraint, FinishReason, PoolOutput, Sampling, Task
from liger.errors import DeadlineError
from liger.schedule import Logprob


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateWork:
    """Tokens are to be made."""

    prompt_token_ids: Sequence[int]
    sampling: Sampling
    num_samples: int
    max_tokens: int
    min_tokens: int
    stop_token_ids: tuple[int, ...]
    prompt_logprobs: int | None = None  # likelihoods of the prompt's tokens, with so many rivals
    constraint: Constraint | None = None  # of each sample's whole output


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeItem:
    """One input of a discriminative request."""

    token_ids: Sequence[int]
    token_type_ids: Sequence[int] = ()  # empty for all 0
    score_from: int = 0  # for likelihoods: the first token whose probability counts


@dataclass(frozen=True, slots=True)
class ScoreHead:
    """Log-probabilities of each input's own tokens from its `score_from` on."""


EncodeHead = PoolOutput | ClassifyOutput | ScoreHead


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeWork:
    """Inputs are to be read."""

    items: Sequence[EncodeItem]
    head: EncodeHead


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A request for the controller."""

    request_id: str
    model: str
    task: Task
    priority: int
    timeout_s: float | None  # time left until the client's deadline; None if it has none
    trace_context: Mapping[str, str]
    work: GenerateWork | EncodeWork


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTokens:
    """More tokens of a sample."""

    sample: int
    offset: int  # tokens of this sample before these
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...] = ()
    finish_reason: FinishReason | None = None  # with the sample's last tokens
    prompt_logprobs: tuple[Logprob, ...] = ()  # once, with the first sample's first tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemOutput:
    """One input's outputs."""

    item: int
    values: tuple[float, ...] = ()
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDone:
    """A request ended well."""

    usage: Usage
    timings: Timings  # total_ns is the gateway's to fill
    placement: Placement


RequestEvent = SampleTokens | ItemOutput | RequestDone


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What a client's call brings beside its message."""

    request_id: str
    started_ns: int  # gateway's monotonic clock
    deadline_ns: int | None  # same clock; None if the client set none
    trace_context: Mapping[str, str] = field(default_factory=dict)

    def time_left_s(self, now_ns: int) -> float | None:
        """Return the seconds until the deadline; None if there is none.

        Raises:
            DeadlineError: It is over.
        """
        if self.deadline_ns is None:
            return None
        if self.deadline_ns <= now_ns:
            raise DeadlineError("the deadline was over before the request could be handed on")
        return (self.deadline_ns - now_ns) / 1e9
