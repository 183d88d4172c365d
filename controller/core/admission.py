"""Which requests are taken: those that can ever run, fit the queues, and can meet their deadline."""

from dataclasses import dataclass
from typing import Final

from controller.core.batch_manager import BatchManager
from controller.core.block_manager import BlockManager, block_digests
from controller.core.limits import MAX_START_BYTES
from controller.core.requests import EncodeItem, GenerateWork, Request
from controller.core.sequence import start_bytes
from liger.domain import BatchKind
from liger.errors import DeadlineError, InputTooLongError, InvalidRequestError, OverloadedError

LEAST_RETRY_S: Final = 0.1
USUAL_RETRY_S: Final = 1.0
MOST_RETRY_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a model takes."""

    max_length: int  # tokens of a sequence, prompt and output together
    vocabulary_size: int  # token ids are below it
    num_token_types: int = 0  # token type ids are below it; 0 if the model knows none


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """Bounds of one group."""

    windows_ahead: int  # windows published and not acknowledged, at most
    max_requests: int  # requests under way, at most
    max_waiting_tokens: int  # tokens of prompts and inputs that wait, at most
    model: ModelLimits


def check_room(request: Request, num_requests: int, limits: SchedulerLimits, batches: BatchManager) -> None:
    """Refuse a request for which the queues have no room.

    Raises:
        OverloadedError: Too many requests are under way, or too many tokens wait; says when to try again.
    """
    if num_requests >= limits.max_requests:
        raise OverloadedError(f"{limits.max_requests} requests are under way; try again", retry_after_s=USUAL_RETRY_S)
    num_waiting = batches.num_waiting_tokens
    surplus = num_waiting + request.num_tokens - limits.max_waiting_tokens
    if surplus > 0 and num_waiting > 0:  # a lone one is taken, however long
        kind = _first_kind(request)
        wait_ns = batches.pace.tokens_ns(kind, surplus, batches.max_batch_tokens)
        retry_s = wait_ns / 1e9 if batches.pace.is_known(kind) else USUAL_RETRY_S
        raise OverloadedError(
            f"{num_waiting:,} tokens wait, and {limits.max_waiting_tokens:,} may; try again",
            retry_after_s=_bounded(retry_s),
        )


def check_deadline(request: Request, now_ns: int, batches: BatchManager) -> None:
    """Refuse a request that cannot meet its deadline, as far as the ranks' pace is known.

    What is predicted is the least: what waits before it of the same task and priority, its own inputs or prompt, the
    tokens that it must make.

    Raises:
        DeadlineError: It could not even alone.
        OverloadedError: It could, but not behind what waits; says when to try again.
    """
    kind = _first_kind(request)
    if request.deadline_ns is None or not batches.pace.is_known(kind):
        return
    left_ns = request.deadline_ns - now_ns
    pace, own_ns = batches.pace, batches.pace.batch_ns(kind, request.num_tokens)
    if isinstance(request.work, GenerateWork):
        own_ns = pace.batch_ns(kind, _num_to_compute(request.work, batches.blocks))
        own_ns += request.work.min_tokens * pace.batch_ns(BatchKind.DECODE, 1)
    if own_ns > left_ns:
        raise DeadlineError(
            f"this takes about {own_ns / 1e9:.2g} s, and {max(left_ns, 0) / 1e9:.2g} s are left; allow more time"
        )
    ahead_ns = pace.tokens_ns(kind, batches.num_tokens_ahead(request.task, request.priority), batches.max_batch_tokens)
    if ahead_ns + own_ns > left_ns:
        raise OverloadedError(
            f"what waits before this takes about {ahead_ns / 1e9:.2g} s, and {left_ns / 1e9:.2g} s are left; try again",
            retry_after_s=_bounded((ahead_ns + own_ns - left_ns) / 1e9),
        )


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


def _first_kind(request: Request) -> BatchKind:
    return BatchKind.PREFILL if isinstance(request.work, GenerateWork) else BatchKind.ENCODE


def _num_to_compute(work: GenerateWork, blocks: BlockManager) -> int:
    digests = block_digests(work.prompt_token_ids[:-1], blocks.block_size)
    return len(work.prompt_token_ids) - blocks.num_findable(digests) * blocks.block_size


def _bounded(retry_s: float) -> float:
    return min(max(retry_s, LEAST_RETRY_S), MOST_RETRY_S)


def _check_item(item: EncodeItem, limits: ModelLimits) -> None:
    if len(item.token_ids) > limits.max_length:
        raise InputTooLongError(f"an input has {len(item.token_ids)} tokens, the model takes {limits.max_length}")
    kind = max(item.token_type_ids, default=0)
    if kind and kind >= limits.num_token_types:
        raise InvalidRequestError(f"token type {kind} is not one of {limits.num_token_types}")


def _check_generation(work: GenerateWork, limits: ModelLimits, blocks: BlockManager) -> None:
    if len(work.samplings) * start_bytes(work, work.samplings[0]) > MAX_START_BYTES:
        raise InvalidRequestError(
            "biases, token lists and structure are too long for so many samples; give fewer of them, or a smaller n",
            field="sampling",
        )
    for sampling in dict.fromkeys(work.samplings):
        named = (*work.stop_token_ids, *sampling.allowed_token_ids, *sampling.banned_token_ids)
        if max((*named, *(token for token, _ in sampling.logit_bias)), default=0) >= limits.vocabulary_size:
            raise InvalidRequestError(f"a stop, allowed, banned or biased token is outside the vocabulary of "
                                      f"{limits.vocabulary_size}")  # fmt: skip
    length = len(work.prompt_token_ids) + work.max_tokens
    if length > limits.max_length:
        raise InputTooLongError(f"prompt and max_tokens make {length} tokens, the model takes {limits.max_length}")
    if blocks.blocks_for(length - 1) > blocks.num_blocks:
        room = blocks.num_blocks * blocks.block_size
        raise InputTooLongError(
            f"prompt and max_tokens make {length} tokens, the KV cache holds {room}; ask for fewer max_tokens, or "
            "start the workers with a larger --kv-cache-gib"
        )
