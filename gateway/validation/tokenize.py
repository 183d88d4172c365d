"""Tokenize requests."""

from gateway.model import Model
from gateway.requests import Tokenization
from gateway.validation import values
from liger.errors import InvalidRequestError
from liger.v1 import inference_pb2 as pb


def to_tokenization(request: pb.TokenizeRequest, model: Model) -> Tokenization:
    """Return what a Tokenize request asks for.

    Raises:
        InvalidRequestError: It has neither text nor a conversation.
    """
    adds = request.add_special_tokens if request.HasField("add_special_tokens") else True
    match request.WhichOneof("content"):
        case "text":
            return Tokenization(model=model, content=request.text, add_special_tokens=adds)
        case "chat":
            turns = values.conversation(request.chat, "chat")
            return Tokenization(model=model, content=turns, add_special_tokens=False)
        case _:
            raise InvalidRequestError("there is nothing to tokenise; set text or chat", field="content")
