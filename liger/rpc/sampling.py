"""How tokens are drawn, and what must hold of the output, as messages and back."""

from collections.abc import Callable
from typing import Final

from liger.domain import Constraint, ConstraintKind, Sampling
from liger.errors import InvalidRequestError
from liger.v1 import types_pb2

MAX_LOGPROBS: Final = 20
LEAST_TEMPERATURE: Final = 1e-5  # below it logits overflow; the likeliest token would be drawn anyway

_IN_RANGE: Final[dict[str, Callable[[Sampling], bool]]] = {  # NaN is in no range
    "temperature": lambda it: 0 <= it.temperature <= 100,
    "top_p": lambda it: 0 < it.top_p <= 1,
    "min_p": lambda it: 0 <= it.min_p <= 1,
    "typical_p": lambda it: 0 < it.typical_p <= 1,
    "repetition_penalty": lambda it: 0 < it.repetition_penalty < float("inf"),
    "presence_penalty": lambda it: -2 <= it.presence_penalty <= 2,
    "frequency_penalty": lambda it: -2 <= it.frequency_penalty <= 2,
    "logit_bias": lambda it: all(-100 <= bias <= 100 for _, bias in it.logit_bias),
    "logprobs": lambda it: it.logprobs is None or 0 <= it.logprobs <= MAX_LOGPROBS,
}


def from_sampling(sampling: Sampling) -> types_pb2.SamplingParameters:
    """Return how tokens are drawn as a message; `logprobs` travels beside it."""
    return types_pb2.SamplingParameters(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        typical_p=sampling.typical_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
        allowed_token_ids=sampling.allowed_token_ids,
        banned_token_ids=sampling.banned_token_ids,
        seed=sampling.seed,
    )


def to_sampling(message: types_pb2.SamplingParameters, logprobs: int | None) -> Sampling:
    """Return how tokens are drawn, with unset fields filled in.

    Raises:
        InvalidRequestError: A value is out of its range.
    """
    sampling = Sampling(
        temperature=message.temperature if not 0 <= message.temperature < LEAST_TEMPERATURE else 0.0,
        top_k=message.top_k,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        min_p=message.min_p,
        typical_p=message.typical_p if message.HasField("typical_p") else 1.0,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=tuple(sorted(message.logit_bias.items())),
        allowed_token_ids=tuple(sorted(set(message.allowed_token_ids))),
        banned_token_ids=tuple(sorted(set(message.banned_token_ids))),
        seed=message.seed,
        logprobs=logprobs,
    )
    for name, holds in _IN_RANGE.items():
        if not holds(sampling):
            raise InvalidRequestError(f"{name} is out of its range", field=f"generate.sampling.{name}")
    return sampling


def from_constraint(constraint: Constraint | None) -> types_pb2.StructuredOutput | None:
    """Return what must hold of an output as a message; None for none."""
    if constraint is None:
        return None
    return types_pb2.StructuredOutput(**{constraint.kind.value: constraint.text})


def to_constraint(message: types_pb2.StructuredOutput) -> Constraint:
    """Return what must hold of an output.

    Raises:
        InvalidRequestError: The message holds no constraint.
    """
    kind = message.WhichOneof("constraint")
    if kind is None:
        raise InvalidRequestError(
            "structured_output is empty; set json_schema, regex or grammar, or leave it out", field="structured_output"
        )
    return Constraint(kind=ConstraintKind(kind), text=getattr(message, kind))
