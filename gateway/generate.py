"""Generate: a prompt in, samples' text out as it is made."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from gateway.assets import Assets, AssetStore
from gateway.controller_link import ControllerLink
from gateway.detokenizer import Detokenizer, Silence
from gateway.inbox import GenerateInbox
from gateway.prompts import prompt_ids
from gateway.requests import Generation, TokenIds
from gateway.sample import Sample, StopTokens
from gateway.stop import StopScanner, StopStrings
from gateway.work import CallContext, GenerateWork, Submission
from liger.client.results import GenerateEvent, Started, Summary
from liger.domain import FinishReason, Task
from liger.errors import InputTooLongError, InvalidRequestError

DEFAULT_MAX_TOKENS: Final = 1024


class Generator:
    """Runs generations.

    Args:
        link: Where work goes.
        assets: The models' tokenizers.
        draw_seed: Gives seeds of 64 bits to those that bring none.
        clock_ns: The clock of CallContext.started_ns.
    """

    def __init__(
        self,
        link: ControllerLink,
        assets: AssetStore,
        draw_seed: Callable[[], int],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._link = link
        self._assets = assets
        self._draw_seed = draw_seed
        self._clock_ns = clock_ns

    async def run(self, generation: Generation, call: CallContext) -> AsyncGenerator[GenerateEvent, None]:
        """Give the generation's events: started, each sample's deltas and end, the summary.

        Raises:
            LigerError: It cannot be done, or failed.
        """
        assets = await self._assets.get(generation.model)
        generation = self._with_seed(generation)
        work = plan(generation, await prompt_ids(generation, assets), assets.eos_token_ids)
        inbox = GenerateInbox(
            samples(generation, work, assets),
            lambda sample: self._link.cancel(call.request_id, sample, FinishReason.STOP),
        )
        with self._link.request(_submission(generation, work, call, self._clock_ns()), inbox):
            yield _started(generation, work, call)
            async with aclosing(inbox.events()) as events:
                async for event in events:
                    yield event
        yield self._summary(inbox, call)

    def _with_seed(self, generation: Generation) -> Generation:
        if generation.sampling.temperature == 0:
            return generation
        seed = self._draw_seed() if generation.seed is None else generation.seed
        return replace(generation, seed=seed, sampling=replace(generation.sampling, seed=seed))

    def _summary(self, inbox: GenerateInbox, call: CallContext) -> Summary:
        done = inbox.account()
        return Summary(
            usage=replace(done.usage, completion_tokens=inbox.num_tokens),
            timings=replace(done.timings, total_ns=self._clock_ns() - call.started_ns),
            placement=done.placement,
        )


def plan(generation: Generation, prompt: TokenIds, generation_eos: TokenIds) -> GenerateWork:
    """Return the work of a generation whose prompt is known.

    Args:
        generation: What the client asks for.
        prompt: Token ids.
        generation_eos: Ends that generation_config.json names; they go before the model's own.

    Raises:
        InvalidRequestError: The prompt is empty, or min_tokens cannot be had.
        InputTooLongError: The prompt leaves no room for a token.
    """
    model, stop, field = generation.model, generation.stop, generation.prompt_field
    if not prompt:
        raise InvalidRequestError(f"{field} has no tokens; give some text", field=field)
    room = model.max_length - len(prompt)
    if room < 1:
        raise InputTooLongError(
            f"{field} has {len(prompt)} tokens and model {model.name!r} takes {model.max_length} with the output; "
            "shorten it",
            field=field,
        )
    max_tokens = min(stop.max_tokens or DEFAULT_MAX_TOKENS, room)
    if stop.min_tokens > max_tokens:
        raise InvalidRequestError(
            f"stop.min_tokens is {stop.min_tokens}, but at most {max_tokens} tokens can be made",
            field="stop.min_tokens",
        )
    own_ends = () if stop.ignore_eos else _ends(generation, generation_eos)
    return GenerateWork(
        prompt_token_ids=prompt,
        sampling=generation.sampling,
        num_samples=generation.num_samples,
        max_tokens=max_tokens,
        min_tokens=stop.min_tokens,
        stop_token_ids=tuple(dict.fromkeys((*own_ends, *stop.token_ids))),
    )


def samples(generation: Generation, work: GenerateWork, assets: Assets) -> list[Sample]:
    """Return a generation's samples, each with its own text.

    Raises:
        InvalidRequestError: Stop strings are asked for, but there is no text.
    """
    stop, tokenizer = generation.stop, assets.tokenizer
    if stop.strings and tokenizer is None:
        raise InvalidRequestError("stop.stop needs text, and this model has no tokenizer.json", field="stop.stop")
    strings = StopStrings(stop.strings)
    silent = set(_ends(generation, assets.eos_token_ids)) | (set() if stop.include_stop else set(stop.token_ids))
    spellings = {token: tokenizer.spelling(token) for token in work.stop_token_ids} if tokenizer else {}
    return [
        Sample(
            index,
            detokenizer=Detokenizer(tokenizer) if tokenizer else Silence(),
            scanner=StopScanner(strings, include_stop=stop.include_stop),
            stop_tokens=StopTokens(silent_ids=frozenset(silent), spellings=spellings),
            min_tokens=stop.min_tokens,
        )
        for index in range(generation.num_samples)
    ]


def _ends(generation: Generation, generation_eos: TokenIds) -> TokenIds:
    ends = generation_eos or generation.model.eos_token_ids
    return tuple(token for token in ends if 0 <= token < generation.model.vocabulary_size)


def _submission(generation: Generation, work: GenerateWork, call: CallContext, now_ns: int) -> Submission:
    return Submission(
        request_id=call.request_id,
        model=generation.model.name,
        task=Task.GENERATE,
        priority=generation.priority,
        timeout_s=call.time_left_s(now_ns),
        trace_context=call.trace_context,
        work=work,
    )


def _started(generation: Generation, work: GenerateWork, call: CallContext) -> Started:
    return Started(
        request_id=call.request_id,
        model=generation.model.name,
        num_prompt_tokens=len(work.prompt_token_ids),
        seed=None if generation.sampling.temperature == 0 else generation.seed,
        prompt_logprobs=(),
    )
