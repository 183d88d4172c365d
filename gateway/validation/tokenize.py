"""Tokenize requests."""

from gateway.model import Model
from gateway.requests import Tokenization
from gateway.sizes import MAX_TOKENIZE_CHARACTERS
from gateway.validation import values
from liger.errors import InputTooLongError, InvalidRequestError
from liger.v1 import inference_pb2 as pb


def to_tokenization(request: pb.TokenizeRequest, model: Model) -> Tokenization:
    """Return what a Tokenize request asks for.

    Raises:
        InvalidRequestError: It has neither text nor a conversation.
        InputTooLongError: The text is too long for one reply.
    """
    adds = request.add_special_tokens if request.HasField("add_special_tokens") else True
    match request.WhichOneof("content"):
        case "text":
            _check_length(len(request.text), "text")
            return Tokenization(model=model, content=request.text, add_special_tokens=adds)
        case "chat":
            turns = values.conversation(request.chat, "chat")
            _check_length(sum(len(turn.content) for turn in turns.turns), "chat.messages")
            return Tokenization(model=model, content=turns, add_special_tokens=False)
        case _:
            raise InvalidRequestError("there is nothing to tokenise; set text or chat", field="content")


def _check_length(num_characters: int, field: str) -> None:
    if num_characters > MAX_TOKENIZE_CHARACTERS:
        raise InputTooLongError(
            f"{field} has {num_characters:,} characters and Tokenize takes {MAX_TOKENIZE_CHARACTERS:,}; split it",
            field=field,
        )
