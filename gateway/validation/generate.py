"""Generate requests."""

from typing import Final

from gateway.model import Model
from gateway.requests import Conversation, Generation, StopRules, TokenIds
from gateway.validation import values
from gateway.validation.unserved import refuse_unserved
from liger.domain import Sampling, Task
from liger.errors import InvalidRequestError
from liger.v1 import inference_pb2 as pb
from liger.v1 import types_pb2

MAX_SAMPLES: Final = 64
MAX_LOGPROBS: Final = 20
MAX_TEMPERATURE: Final = 100.0
MAX_STOP_STRINGS: Final = 64
MAX_STOP_CHARACTERS: Final = 1024
MAX_STOP_IDS: Final = 1024
UINT32_MAX: Final = 2**32 - 1


def to_generation(request: pb.GenerateRequest, model: Model) -> Generation:
    """Return what a Generate request asks for.

    Raises:
        InvalidRequestError: A value can never be right.
        UnsupportedTaskError: The model does not generate.
        NotServedError: It asks for what is not done yet.
    """
    values.can_do(model, Task.GENERATE)
    num_samples = values.whole(request.n, "n", 1, MAX_SAMPLES) if request.HasField("n") else 1
    logprobs = _logprobs(request)
    sampling = _sampling(request.sampling, model, logprobs)
    stop = _stop(request.stop, model)
    _check_unserved_values(request, model, num_samples)
    refuse_unserved(request)
    prompt, field = _prompt(request, model)
    return Generation(
        model=model,
        priority=values.priority(request),
        prompt=prompt,
        prompt_field=field,
        sampling=sampling,
        seed=request.sampling.seed if request.sampling.HasField("seed") else None,
        num_samples=num_samples,
        stop=stop,
    )


def _prompt(request: pb.GenerateRequest, model: Model) -> tuple[str | Conversation | TokenIds, str]:
    match request.WhichOneof("prompt"):
        case "text":
            return values.text(request.text, "text"), "text"
        case "chat":
            return values.conversation(request.chat, "chat"), "chat"
        case "token_ids":
            return values.token_ids(request.token_ids.ids, model, "token_ids"), "token_ids"
        case _:
            raise InvalidRequestError("there is no prompt; set text, chat or token_ids", field="prompt")


def _logprobs(request: pb.GenerateRequest) -> int | None:
    if not request.HasField("logprobs"):
        return None
    return values.whole(request.logprobs, "logprobs", 0, MAX_LOGPROBS)


def _sampling(message: types_pb2.SamplingParameters, model: Model, logprobs: int | None) -> Sampling:
    top_p = message.top_p if message.HasField("top_p") else 1.0
    return Sampling(
        temperature=values.real(message.temperature, "sampling.temperature", 0.0, MAX_TEMPERATURE),
        top_k=message.top_k if message.top_k < model.vocabulary_size else 0,
        top_p=values.real(top_p, "sampling.top_p", 0.0, 1.0, low_open=True),
        min_p=values.real(message.min_p, "sampling.min_p", 0.0, 1.0),
        seed=0,
        logprobs=logprobs,
    )


def _stop(message: pb.StopConditions, model: Model) -> StopRules:
    values.count(len(message.stop), "stop.stop", 0, MAX_STOP_STRINGS)
    values.count(len(message.stop_token_ids), "stop.stop_token_ids", 0, MAX_STOP_IDS)
    for index, string in enumerate(message.stop):
        if not 1 <= len(string) <= MAX_STOP_CHARACTERS:
            raise InvalidRequestError(
                f"stop.stop[{index}] has {len(string)} characters; it must have 1 to {MAX_STOP_CHARACTERS}",
                field=f"stop.stop[{index}]",
            )
    has_limit = message.HasField("max_tokens")
    max_tokens = values.whole(message.max_tokens, "stop.max_tokens", 1, UINT32_MAX) if has_limit else None
    if max_tokens is not None and message.min_tokens > max_tokens:
        raise InvalidRequestError(
            f"stop.min_tokens is {message.min_tokens}, above stop.max_tokens of {max_tokens}", field="stop.min_tokens"
        )
    return StopRules(
        max_tokens=max_tokens,
        min_tokens=message.min_tokens,
        strings=tuple(dict.fromkeys(message.stop)),
        token_ids=values.vocabulary_ids(message.stop_token_ids, model, "stop.stop_token_ids"),
        include_stop=message.include_stop,
        ignore_eos=message.ignore_eos,
    )


def _check_unserved_values(request: pb.GenerateRequest, model: Model, num_samples: int) -> None:
    """Check ranges of what is refused afterwards, so that a client learns first what can never be right."""
    sampling = request.sampling
    if sampling.HasField("typical_p"):
        values.real(sampling.typical_p, "sampling.typical_p", 0.0, 1.0, low_open=True)
    if sampling.HasField("repetition_penalty"):
        values.real(sampling.repetition_penalty, "sampling.repetition_penalty", 0.0, float("inf"), low_open=True)
    for name in ("presence_penalty", "frequency_penalty"):
        values.real(getattr(sampling, name), f"sampling.{name}", -2.0, 2.0)
    for bias in sampling.logit_bias.values():
        values.real(bias, "sampling.logit_bias", -100.0, 100.0)
    values.vocabulary_ids(list(sampling.logit_bias), model, "sampling.logit_bias")
    values.vocabulary_ids(sampling.allowed_token_ids, model, "sampling.allowed_token_ids")
    values.vocabulary_ids(sampling.banned_token_ids, model, "sampling.banned_token_ids")
    if request.HasField("best_of"):
        values.whole(request.best_of, "best_of", num_samples, MAX_SAMPLES)
    if request.HasField("prompt_logprobs"):
        values.whole(request.prompt_logprobs, "prompt_logprobs", 0, MAX_LOGPROBS)
    if request.HasField("structured_output") and not request.structured_output.WhichOneof("constraint"):
        raise InvalidRequestError(
            "structured_output is empty; set json_schema, regex or grammar, or leave it out", field="structured_output"
        )
