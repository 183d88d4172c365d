"""Which requests can ever run on a group."""

from dataclasses import dataclass

from controller.core.block_manager import BlockManager
from controller.core.requests import EncodeItem, GenerateWork, Request
from liger.errors import InputTooLongError, InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a model takes."""

    max_length: int  # tokens of a sequence, prompt and output together
    vocabulary_size: int  # token ids are below it
    num_token_types: int = 0  # token type ids are below it; 0 if the model knows none


def check_fits(request: Request, limits: ModelLimits, blocks: BlockManager) -> None:
    """Refuse a request that could never run.

    Raises:
        InvalidRequestError: An id is outside the vocabulary, or a token type is unknown.
        InputTooLongError: It is longer than the context or the KV cache.
    """
    if request.highest_token_id >= limits.vocabulary_size:
        raise InvalidRequestError(
            f"token id {request.highest_token_id} is outside the vocabulary of {limits.vocabulary_size}"
        )
    if isinstance(request.work, GenerateWork):
        _check_generation(request.work, limits, blocks)
        return
    for item in request.work.items:
        _check_item(item, limits)


def _check_item(item: EncodeItem, limits: ModelLimits) -> None:
    if len(item.token_ids) > limits.max_length:
        raise InputTooLongError(f"an input has {len(item.token_ids)} tokens, the model takes {limits.max_length}")
    kind = max(item.token_type_ids, default=0)
    if kind and kind >= limits.num_token_types:
        raise InvalidRequestError(f"token type {kind} is not one of {limits.num_token_types}")


def _check_generation(work: GenerateWork, limits: ModelLimits, blocks: BlockManager) -> None:
    if max(work.stop_token_ids, default=0) >= limits.vocabulary_size:
        raise InvalidRequestError(f"a stop token is outside the vocabulary of {limits.vocabulary_size}")
    length = len(work.prompt_token_ids) + work.max_tokens
    if length > limits.max_length:
        raise InputTooLongError(f"prompt and max_tokens make {length} tokens, the model takes {limits.max_length}")
    if blocks.blocks_for(length - 1) > blocks.num_blocks:
        room = blocks.num_blocks * blocks.block_size
        raise InputTooLongError(
            f"prompt and max_tokens make {length} tokens, the KV cache holds {room}; ask for fewer max_tokens, or "
            "start the workers with a larger --kv-cache-gib"
        )
