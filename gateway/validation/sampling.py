"""How tokens are drawn: every value's range, and that something is left to draw."""

from collections.abc import Collection
from typing import Final

from gateway.model import Model
from gateway.requests import TokenIds
from gateway.validation import values
from liger.domain import Sampling
from liger.errors import InvalidRequestError
from liger.rpc.sampling import MAX_LOGPROBS
from liger.v1 import types_pb2

MAX_TEMPERATURE: Final = 100.0
MAX_BIAS: Final = 100.0
LARGEST_REPETITION_PENALTY: Final = 1e6  # beyond it, and below its inverse, float32 logits overflow; no draw changes


def to_sampling(message: types_pb2.SamplingParameters, model: Model, logprobs: int | None) -> Sampling:
    """Return how a sequence's tokens are drawn, with seed 0.

    Args:
        message: What the client asks for.
        model: Whose vocabulary is drawn from.
        logprobs: As `Sampling.logprobs`.

    Raises:
        InvalidRequestError: A value is out of its range, or nothing is left to draw.
    """
    allowed = _ids(message.allowed_token_ids, model, "sampling.allowed_token_ids")
    banned = _ids(message.banned_token_ids, model, "sampling.banned_token_ids")
    check_drawable(allowed, frozenset(banned), model, "sampling.banned_token_ids")
    return Sampling(
        temperature=values.real(message.temperature, "sampling.temperature", 0.0, MAX_TEMPERATURE),
        top_k=message.top_k if message.top_k < model.vocabulary_size else 0,
        top_p=_share(message, "top_p"),
        min_p=values.real(message.min_p, "sampling.min_p", 0.0, 1.0),
        typical_p=_share(message, "typical_p"),
        repetition_penalty=_repetition_penalty(message),
        presence_penalty=values.real(message.presence_penalty, "sampling.presence_penalty", -2.0, 2.0),
        frequency_penalty=values.real(message.frequency_penalty, "sampling.frequency_penalty", -2.0, 2.0),
        logit_bias=_biases(message, model),
        allowed_token_ids=allowed,
        banned_token_ids=banned,
        seed=0,
        logprobs=logprobs,
    )


def num_logprobs(value: int, field: str) -> int:
    """Return how many likeliest tokens are asked for beside each token's own log-probability.

    Raises:
        InvalidRequestError: Too many.
    """
    return values.whole(value, field, 0, MAX_LOGPROBS)


def check_drawable(allowed: TokenIds, banned: frozenset[int], model: Model, field: str) -> None:
    """Check that a token is left to draw.

    Args:
        allowed: The only ids that may be drawn; empty for all.
        banned: Ids of the vocabulary that may not.
        model: Whose vocabulary is drawn from.
        field: Of the request, for the error.

    Raises:
        InvalidRequestError: None is left.
    """
    if banned.issuperset(allowed) if allowed else len(banned) >= model.vocabulary_size:
        raise InvalidRequestError(f"{field} leaves no token to draw; allow at least one", field=field)


def _share(message: types_pb2.SamplingParameters, name: str) -> float:
    share: float = getattr(message, name) if message.HasField(name) else 1.0  # type: ignore[arg-type]
    return values.real(share, f"sampling.{name}", 0.0, 1.0, low_open=True)


def _repetition_penalty(message: types_pb2.SamplingParameters) -> float:
    if not message.HasField("repetition_penalty"):
        return 1.0
    penalty = values.real(message.repetition_penalty, "sampling.repetition_penalty", 0.0, float("inf"), low_open=True)
    return min(max(penalty, 1 / LARGEST_REPETITION_PENALTY), LARGEST_REPETITION_PENALTY)


def _biases(message: types_pb2.SamplingParameters, model: Model) -> tuple[tuple[int, float], ...]:
    """Return the biases that change something, by id; there may be one for each id of a large vocabulary."""
    biases = dict(message.logit_bias)
    values.vocabulary_ids(biases, model, "sampling.logit_bias")
    if not all(-MAX_BIAS <= bias <= MAX_BIAS for bias in biases.values()):  # NaN compares false
        wrong = next(token for token, bias in biases.items() if not -MAX_BIAS <= bias <= MAX_BIAS)
        values.real(biases[wrong], f"sampling.logit_bias[{wrong}]", -MAX_BIAS, MAX_BIAS)
    return tuple(sorted((token, bias) for token, bias in biases.items() if bias))


def _ids(ids: Collection[int], model: Model, field: str) -> TokenIds:
    return tuple(sorted(set(values.vocabulary_ids(ids, model, field))))
