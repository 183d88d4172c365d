"""What the controller is asked to do, as values."""

from dataclasses import dataclass, field

from liger.domain import Constraint, EncodeOutput, Sampling, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateWork:
    """Samples that continue one prompt."""

    prompt_token_ids: tuple[int, ...]  # at least one
    samplings: tuple[Sampling, ...]  # one a sample, at least one
    max_tokens: int  # for each sample, at least 1
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    prompt_logprobs: int | None = None  # likelihoods of the prompt's tokens, with so many rivals; None for none
    constraint: Constraint | None = None  # of each sample's whole output


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeItem:
    """One input of a discriminative request."""

    token_ids: tuple[int, ...]  # at least one
    token_type_ids: tuple[int, ...]  # empty for all 0, else as many as token_ids
    output: EncodeOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeWork:
    """Inputs that each take one forward."""

    items: tuple[EncodeItem, ...]  # at least one


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A client's call, validated and tokenised by its gateway."""

    request_id: str
    model: str
    task: Task
    work: GenerateWork | EncodeWork
    priority: int = 0  # higher goes sooner
    deadline_ns: int | None = None  # on the controller's monotonic clock
    trace_context: dict[str, str] = field(default_factory=dict)
    conversation: int = 0  # with the gateway that sent it
    first_stream: int | None = None  # number there of its first sample, the others' follow; None without numbers

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt or of all inputs."""
        if isinstance(self.work, GenerateWork):
            return len(self.work.prompt_token_ids)
        return sum(len(item.token_ids) for item in self.work.items)

    @property
    def highest_token_id(self) -> int:
        """The largest id in the prompt or the inputs."""
        if isinstance(self.work, GenerateWork):
            return max(self.work.prompt_token_ids)
        return max(max(item.token_ids) for item in self.work.items)
