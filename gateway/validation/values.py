"""Ranges and sizes of single values."""

import math
from collections.abc import Collection, Sequence
from typing import Final

from gateway.model import Model
from gateway.requests import Content, Conversation, TokenIds, Turn
from gateway.sizes import check_call_tokens
from liger.domain import Task
from liger.errors import InvalidRequestError, UnsupportedTaskError
from liger.v1 import inference_pb2 as pb

MAX_PRIORITY: Final = 100
MAX_TURNS: Final = 4096


def whole(value: int, field: str, low: int, high: int) -> int:
    """Return a whole number that lies in [low, high].

    Raises:
        InvalidRequestError: It does not.
    """
    if not low <= value <= high:
        raise InvalidRequestError(f"{field} is {value}; it must be {low} to {high}", field=field)
    return value


def count(number: int, field: str, low: int, high: int) -> None:
    """Check how many entries a list has.

    Raises:
        InvalidRequestError: Too few or too many.
    """
    if not low <= number <= high:
        raise InvalidRequestError(f"{field} has {number} entries; it must have {low} to {high}", field=field)


def real(value: float, field: str, low: float, high: float, *, low_open: bool = False) -> float:
    """Return a finite number that lies in [low, high], or (low, high] if `low_open`.

    Raises:
        InvalidRequestError: It does not, or is NaN.
    """
    if not math.isfinite(value) or not low <= value <= high or (low_open and value == low):
        bounds = f"above {low:g} and at most {high:g}" if low_open else f"{low:g} to {high:g}"
        raise InvalidRequestError(f"{field} is {value:g}; it must be a finite number {bounds}", field=field)
    return value


def priority(request: pb.GenerateRequest | pb.InferRequest) -> int:
    """Return the request's priority, 0 if unset.

    Raises:
        InvalidRequestError: It is out of range.
    """
    return whole(request.priority, "priority", -MAX_PRIORITY, MAX_PRIORITY)


def can_do(model: Model, task: Task) -> None:
    """Check that the model can do a task.

    Raises:
        UnsupportedTaskError: It cannot.
    """
    if task not in model.tasks:
        able = ", ".join(sorted(known.name.lower() for known in model.tasks)) or "nothing"
        raise UnsupportedTaskError(
            f"model {model.name!r} cannot {task.name.lower()}; it can {able}. Choose another model", field="model"
        )


def token_ids(ids: Sequence[int], model: Model, field: str) -> TokenIds:
    """Return ids of the model's vocabulary, at least one.

    Raises:
        InvalidRequestError: There are none, or one is outside the vocabulary.
        InputTooLongError: There are more than a call may bring.
    """
    if not ids:
        raise InvalidRequestError(f"{field} is empty; give at least one token id", field=field)
    check_call_tokens(len(ids), field)
    return vocabulary_ids(ids, model, field)


def vocabulary_ids(ids: Collection[int], model: Model, field: str) -> TokenIds:
    """Return ids of the model's vocabulary.

    Raises:
        InvalidRequestError: One is outside the vocabulary.
    """
    if ids and (largest := max(ids)) >= model.vocabulary_size:
        raise InvalidRequestError(
            f"{field} holds {largest}, but the vocabulary of model {model.name!r} ends at {model.vocabulary_size - 1}",
            field=field,
        )
    return tuple(ids)


def text(value: str, field: str) -> str:
    """Return a text that is not empty.

    Raises:
        InvalidRequestError: It is empty.
    """
    if not value:
        raise InvalidRequestError(f"{field} is empty; give some text", field=field)
    return value


def content(message: pb.Input, model: Model, field: str, *, may_be_empty: bool = False) -> Content:
    """Return an input's text or token ids.

    Raises:
        InvalidRequestError: It has neither, is empty, or has ids outside the vocabulary.
    """
    kind = message.WhichOneof("content")
    if may_be_empty and not message.text and not message.token_ids.ids:
        return () if kind == "token_ids" else ""
    if kind is None:
        raise InvalidRequestError(f"{field} is empty; set its text or its token_ids", field=field)
    if kind == "text":
        return text(message.text, f"{field}.text")
    return token_ids(message.token_ids.ids, model, f"{field}.token_ids")


def conversation(chat: pb.Chat, field: str) -> Conversation:
    """Return a conversation of at least one turn.

    Raises:
        InvalidRequestError: It has no turns, too many, one without a role, or an empty last one.
    """
    count(len(chat.messages), f"{field}.messages", 1, MAX_TURNS)
    for index, message in enumerate(chat.messages):
        text(message.role, f"{field}.messages[{index}].role")
    if not chat.messages[-1].content:
        raise InvalidRequestError("the last turn of the chat is empty; say something", field=f"{field}.messages")
    return Conversation(tuple(Turn(role=message.role, content=message.content) for message in chat.messages))
