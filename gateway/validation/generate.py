"""Generate requests."""

from typing import Final

from gateway.model import Model
from gateway.requests import Conversation, Generation, StopRules, TokenIds
from gateway.validation import values
from gateway.validation.sampling import num_logprobs, to_sampling
from liger.domain import Constraint, Task
from liger.errors import InvalidRequestError, NotServedError
from liger.rpc.sampling import to_constraint
from liger.v1 import inference_pb2 as pb

MAX_SAMPLES: Final = 64
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
    num_samples, num_given = _number_of_samples(request)
    logprobs = num_logprobs(request.logprobs, "logprobs") if request.HasField("logprobs") else None
    ranking_logprobs = 0 if num_given < num_samples and logprobs is None else logprobs
    has_prompt_logprobs = request.HasField("prompt_logprobs")
    sampling = to_sampling(request.sampling, model, ranking_logprobs)
    stop = _stop(request.stop, model)
    constraint = _constraint(request)
    _refuse_resumption(request)
    prompt, field = _prompt(request, model)
    return Generation(
        model=model,
        priority=values.priority(request),
        prompt=prompt,
        prompt_field=field,
        sampling=sampling,
        seed=request.sampling.seed if request.sampling.HasField("seed") else None,
        num_samples=num_samples,
        num_given=num_given,
        shows_logprobs=logprobs is not None,
        prompt_logprobs=num_logprobs(request.prompt_logprobs, "prompt_logprobs") if has_prompt_logprobs else None,
        constraint=constraint,
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


def _number_of_samples(request: pb.GenerateRequest) -> tuple[int, int]:
    """Return how many samples to run, and how many of them to give."""
    given = values.whole(request.n, "n", 1, MAX_SAMPLES) if request.HasField("n") else 1
    if not request.HasField("best_of"):
        return given, given
    return values.whole(request.best_of, "best_of", given, MAX_SAMPLES), given


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


def _constraint(request: pb.GenerateRequest) -> Constraint | None:
    """Return what must hold of the output, its text as it came."""
    if not request.HasField("structured_output"):
        return None
    if request.stop.ignore_eos:
        raise InvalidRequestError(
            "stop.ignore_eos goes on after the end that structured_output needs; leave one of them out",
            field="stop.ignore_eos",
        )
    return to_constraint(request.structured_output)


def _refuse_resumption(request: pb.GenerateRequest) -> None:
    if any(request.resume_num_tokens):
        raise NotServedError(
            "resume_num_tokens is not served yet; leave it unset and begin anew", field="resume_num_tokens"
        )
