"""A generation whose prompt is known, to the work that the controller gets."""

from typing import Final

from gateway.requests import Generation, TokenIds
from gateway.validation.sampling import check_drawable
from gateway.work import GenerateWork
from liger.errors import InputTooLongError, InvalidRequestError
from liger.rpc.server import MAX_MESSAGE_BYTES

DEFAULT_MAX_TOKENS: Final = 1024
LOGPROB_BYTES: Final = 16  # of one token's likelihood, or one rival's, in a message


def plan(generation: Generation, prompt: TokenIds, generation_eos: TokenIds) -> GenerateWork:
    """Return the work of a generation whose prompt is known.

    Args:
        generation: What the client asks for.
        prompt: Token ids.
        generation_eos: Ends that generation_config.json names; they go before the model's own.

    Raises:
        InvalidRequestError: The prompt is empty, min_tokens cannot be had, or the output could never end as asked.
        InputTooLongError: The prompt leaves no room for a token, or its likelihoods do not fit a message.
    """
    stop = generation.stop
    max_tokens = _most_tokens(generation, len(prompt))
    own_ends = () if stop.ignore_eos else ends(generation, generation_eos)
    stop_token_ids = tuple(dict.fromkeys((*own_ends, *stop.token_ids)))
    _check_prompt_logprobs(generation, len(prompt))
    _check_ranked(generation, max_tokens)
    _check_draws(generation, stop_token_ids)
    if generation.constraint is not None and not own_ends:
        raise InvalidRequestError(
            f"structured_output needs an end-of-sequence token, and model {generation.model.name!r} has none",
            field="structured_output",
        )
    return GenerateWork(
        prompt_token_ids=prompt,
        sampling=generation.sampling,
        num_samples=generation.num_samples,
        max_tokens=max_tokens,
        min_tokens=stop.min_tokens,
        stop_token_ids=stop_token_ids,
        prompt_logprobs=generation.prompt_logprobs,
        constraint=generation.constraint,
    )


def ends(generation: Generation, generation_eos: TokenIds) -> TokenIds:
    """Return the model's own ends: those that generation_config.json names, else those of its description."""
    own = generation_eos or generation.model.eos_token_ids
    return tuple(token for token in own if 0 <= token < generation.model.vocabulary_size)


def _most_tokens(generation: Generation, num_prompt_tokens: int) -> int:
    model, stop, field = generation.model, generation.stop, generation.prompt_field
    if not num_prompt_tokens:
        raise InvalidRequestError(f"{field} has no tokens; give some text", field=field)
    room = model.max_length - num_prompt_tokens
    if room < 1:
        raise InputTooLongError(
            f"{field} has {num_prompt_tokens} tokens and model {model.name!r} takes {model.max_length} with the "
            "output; shorten it",
            field=field,
        )
    max_tokens = min(stop.max_tokens or DEFAULT_MAX_TOKENS, room)
    if stop.min_tokens > max_tokens:
        raise InvalidRequestError(
            f"stop.min_tokens is {stop.min_tokens}, but at most {max_tokens} tokens can be made",
            field="stop.min_tokens",
        )
    return max_tokens


def _check_prompt_logprobs(generation: Generation, num_prompt_tokens: int) -> None:
    """Check that the likelihoods of the prompt, all told at once, fit a message."""
    if generation.prompt_logprobs is None:
        return
    size = num_prompt_tokens * (1 + generation.prompt_logprobs) * LOGPROB_BYTES
    if size > MAX_MESSAGE_BYTES:
        raise InputTooLongError(
            f"prompt_logprobs of {generation.prompt_logprobs} for {num_prompt_tokens:,} tokens do not fit a message; "
            "ask for fewer, or shorten the prompt",
            field="prompt_logprobs",
        )


def _check_ranked(generation: Generation, max_tokens: int) -> None:
    """Check that samples which are held back until all have ended, with their likelihoods, take bounded memory."""
    if not generation.is_ranked:
        return
    num_rivals = generation.sampling.logprobs or 0
    if generation.num_samples * max_tokens * (1 + num_rivals) * LOGPROB_BYTES > MAX_MESSAGE_BYTES:
        raise InputTooLongError(
            f"best_of {generation.num_samples} samples of {max_tokens:,} tokens with {num_rivals} rivals each are too "
            "many to hold back; ask for fewer samples, logprobs or max_tokens",
            field="best_of",
        )


def _check_draws(generation: Generation, stop_token_ids: TokenIds) -> None:
    """Check that there is something to draw while ends are not allowed yet."""
    sampling = generation.sampling
    if generation.stop.min_tokens:
        not_yet = frozenset((*sampling.banned_token_ids, *stop_token_ids))
        check_drawable(sampling.allowed_token_ids, not_yet, generation.model, "stop.min_tokens")
