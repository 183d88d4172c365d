"""What the client sends: Python values to `liger.v1` messages. An option that is None is left unset."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict, TypeVar

from liger.domain import Pooling
from liger.errors import InvalidRequestError
from liger.v1 import inference_pb2 as pb
from liger.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str  # as the model's template knows it: system, user, assistant, tool
    content: str


Text = str | Sequence[int]
"""Text, or token ids taken as they are."""
Messages = Sequence[Message] | Sequence[Mapping[str, str]]
"""A conversation; mappings have the keys role and content."""
Prompt = str | Messages | Sequence[int]


MessageT = TypeVar("MessageT")

DEFAULT_TIMEOUT_S: Final = 600.0


class CallOptions(TypedDict, total=False):
    """Options of every discriminative call."""

    truncate: bool | None
    priority: int | None
    request_id: str | None
    timeout_s: float | None


class GenerateOptions(TypedDict, total=False):
    """Options of a generation; what each means, and what unset means, is in `liger.v1.GenerateRequest`."""

    max_tokens: int | None
    min_tokens: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    include_stop: bool | None
    ignore_eos: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    allowed_token_ids: Sequence[int] | None
    banned_token_ids: Sequence[int] | None
    seed: int | None
    n: int | None
    best_of: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    json_schema: str | Mapping[str, Any] | None
    regex: str | None
    grammar: str | None
    priority: int | None
    request_id: str | None
    timeout_s: float | None


_STOP: Final = frozenset(pb.StopConditions.DESCRIPTOR.fields_by_name)
_SAMPLING: Final = frozenset(types_pb2.SamplingParameters.DESCRIPTOR.fields_by_name)
_STRUCTURED: Final = frozenset(types_pb2.StructuredOutput.DESCRIPTOR.fields_by_name)
_PLAIN: Final = frozenset({"n", "best_of", "logprobs", "prompt_logprobs", "priority", "request_id"})


def generate_request(model: str, prompt: Prompt, options: GenerateOptions) -> pb.GenerateRequest:
    """Return the message of a generation.

    Raises:
        InvalidRequestError: A value does not fit its field's type, or options exclude one another.
        TypeError: An option is unknown.
    """
    given = {name: value for name, value in options.items() if value is not None and name != "timeout_s"}
    if unknown := sorted(set(given) - _STOP - _SAMPLING - _STRUCTURED - _PLAIN):
        raise TypeError(f"generate has no option {', '.join(unknown)}")
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]

    if len(chosen := sorted(_STRUCTURED.intersection(given))) > 1:
        raise InvalidRequestError(f"{' and '.join(chosen)} exclude one another; give one", field="structured_output")
    if isinstance(given.get("json_schema"), Mapping):
        given["json_schema"] = json.dumps(given["json_schema"])

    def pick(names: frozenset[str]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name in names}

    fields: dict[str, Any] = {"model": model, **pick(_PLAIN), **_prompt(prompt)}
    for field, names in (("stop", _STOP), ("sampling", _SAMPLING), ("structured_output", _STRUCTURED)):
        if picked := pick(names):
            fields[field] = picked
    return _build(pb.GenerateRequest, fields)


def embed_request(
    model: str,
    inputs: str | Sequence[Text],
    options: CallOptions,
    *,
    pooling: Pooling | None,
    normalize: bool | None,
    dimensions: int | None,
) -> pb.InferRequest:
    """Return the message of an embedding."""
    settings = {"pooling": pooling, "normalize": normalize, "dimensions": dimensions}
    return _infer(model, "embed", {"inputs": _inputs(inputs), **settings}, options)


def classify_request(
    model: str,
    inputs: str | Sequence[Text],
    options: CallOptions,
    *,
    pairs: str | Sequence[Text],
    labels: Sequence[str],
    raw: bool | None,
) -> pb.InferRequest:
    """Return the message of a classification."""
    fields = {"inputs": _inputs(inputs), "pairs": _inputs(pairs), "labels": list(labels), "raw": raw}
    return _infer(model, "classify", fields, options)


def rerank_request(
    model: str,
    query: Text,
    documents: str | Sequence[Text],
    options: CallOptions,
    *,
    top_n: int | None,
    raw: bool | None,
) -> pb.InferRequest:
    """Return the message of a reranking."""
    fields = {"query": _input(query), "documents": _inputs(documents), "top_n": top_n, "raw": raw}
    return _infer(model, "rerank", fields, options)


def score_request(model: str, items: Sequence[tuple[Text, Text]], options: CallOptions) -> pb.InferRequest:
    """Return the message of a scoring; items are (context, continuation)."""
    pairs = [{"context": _input(context), "continuation": _input(continuation)} for context, continuation in items]
    return _infer(model, "score", {"items": pairs}, options)


def tokenize_request(model: str, content: str | Messages, add_special_tokens: bool | None) -> pb.TokenizeRequest:
    """Return the message of a tokenisation."""
    fields: dict[str, Any] = {"model": model, "add_special_tokens": add_special_tokens, **_prompt(content)}
    return _build(pb.TokenizeRequest, fields)


def _infer(model: str, task: str, fields: dict[str, Any], options: CallOptions) -> pb.InferRequest:
    common = {name: value for name, value in options.items() if name != "timeout_s"}
    chosen = {name: value for name, value in fields.items() if value is not None}
    return _build(pb.InferRequest, {"model": model, task: chosen, **common})


def _build(kind: type[MessageT], fields: Mapping[str, Any]) -> MessageT:
    try:
        return kind(**{name: value for name, value in fields.items() if value is not None})
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"the request cannot be written as a message: {error}") from error


def _input(content: Text) -> dict[str, Any]:
    return {"text": content} if isinstance(content, str) else {"token_ids": {"ids": list(content)}}


def _inputs(contents: str | Sequence[Text]) -> list[dict[str, Any]]:
    return [_input(content) for content in ([contents] if isinstance(contents, str) else contents)]


def _prompt(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"text": prompt}
    turns = [_turn(turn) for turn in prompt if not isinstance(turn, int)]
    if len(turns) == len(prompt):
        return {"chat": {"messages": turns}}
    return {"token_ids": {"ids": list(prompt)}}


def _turn(turn: Message | Mapping[str, str]) -> dict[str, str]:
    if isinstance(turn, Message):
        return {"role": turn.role, "content": turn.content}
    return {"role": turn["role"], "content": turn["content"]}
