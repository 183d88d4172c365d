"""Generate: a prompt in, samples' text out as it is made."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from gateway.assets import Assets, AssetStore
from gateway.constraints import ConstraintChecker
from gateway.controller_link import ControllerLink
from gateway.detokenizer import Detokenizer, Silence
from gateway.generate_inbox import GenerateInbox
from gateway.generate_work import ends, plan
from gateway.prompts import prompt_ids
from gateway.requests import Generation
from gateway.sample import Likelihoods, Sample, StopTokens
from gateway.stop import StopScanner, StopStrings
from gateway.tokenizer import INLINE_CHARACTERS
from gateway.work import CallContext, GenerateWork, Submission
from liger.client.results import GenerateEvent, Started, Summary
from liger.domain import FinishReason, Task
from liger.errors import InvalidRequestError


class Generator:
    """Runs generations.

    Args:
        link: Where work goes.
        assets: The models' tokenizers.
        constraints: Checks those of structured output.
        draw_seed: Gives seeds of 64 bits to those that bring none.
        clock_ns: The clock of CallContext.started_ns.
    """

    def __init__(
        self,
        link: ControllerLink,
        assets: AssetStore,
        constraints: ConstraintChecker,
        draw_seed: Callable[[], int],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._link = link
        self._assets = assets
        self._constraints = constraints
        self._draw_seed = draw_seed
        self._clock_ns = clock_ns

    async def run(self, generation: Generation, call: CallContext) -> AsyncGenerator[GenerateEvent, None]:
        """Give the generation's events: started, each sample's deltas and end, the summary.

        Raises:
            LigerError: It cannot be done, or failed.
        """
        assets = await self._assets.get(generation.model)
        generation = await self._with_constraint(self._with_seed(generation), assets)
        work = plan(generation, await prompt_ids(generation, assets), assets.eos_token_ids)
        made = await samples(generation, work, assets)
        inbox = GenerateInbox(made, _Upstream(self._link, call.request_id), num_given=generation.num_given)
        with self._link.request(_submission(generation, work, call, self._clock_ns()), inbox):
            yield await _started(generation, work, call, inbox)
            async with aclosing(inbox.events()) as events:
                async for event in events:
                    yield event
        yield self._summary(inbox, call)

    def _with_seed(self, generation: Generation) -> Generation:
        if generation.sampling.temperature == 0:
            return generation
        seed = self._draw_seed() if generation.seed is None else generation.seed
        return replace(generation, seed=seed, sampling=replace(generation.sampling, seed=seed))

    async def _with_constraint(self, generation: Generation, assets: Assets) -> Generation:
        if generation.constraint is None:
            return generation
        if assets.tokenizer is None:
            raise InvalidRequestError(
                "structured_output needs text, and this model has no tokenizer.json", field="structured_output"
            )
        return replace(generation, constraint=await self._constraints.checked(generation.constraint))

    def _summary(self, inbox: GenerateInbox, call: CallContext) -> Summary:
        done = inbox.account()
        return Summary(
            usage=replace(done.usage, completion_tokens=inbox.num_tokens),
            timings=replace(done.timings, total_ns=self._clock_ns() - call.started_ns),
            placement=done.placement,
        )


class _Upstream:
    """Tells the controller of one request's samples."""

    def __init__(self, link: ControllerLink, request_id: str) -> None:
        self._link = link
        self._request_id = request_id

    def stop(self, sample: int) -> None:
        """Tell that a stop string ended a sample."""
        self._link.cancel(self._request_id, sample, FinishReason.STOP)

    def acknowledge(self, sample: int, num_tokens: int) -> None:
        """Tell how many of a sample's tokens the client has taken."""
        self._link.acknowledge(self._request_id, sample, num_tokens)


async def samples(generation: Generation, work: GenerateWork, assets: Assets) -> list[Sample]:
    """Return a generation's samples, each with its own text.

    Raises:
        InvalidRequestError: Stop strings are asked for, but there is no text.
    """
    stop, tokenizer = generation.stop, assets.tokenizer
    if stop.strings and tokenizer is None:
        raise InvalidRequestError("stop.stop needs text, and this model has no tokenizer.json", field="stop.stop")
    are_long = sum(map(len, stop.strings)) > INLINE_CHARACTERS
    strings = await asyncio.to_thread(StopStrings, stop.strings) if are_long else StopStrings(stop.strings)
    return [
        Sample(
            index,
            detokenizer=Detokenizer(tokenizer) if tokenizer else Silence(),
            scanner=StopScanner(strings, include_stop=stop.include_stop),
            stop_tokens=_stop_tokens(generation, work, assets),
            min_tokens=stop.min_tokens,
            likelihoods=Likelihoods(are_shown=generation.shows_logprobs, rank=generation.is_ranked),
        )
        for index in range(generation.num_samples)
    ]


def _stop_tokens(generation: Generation, work: GenerateWork, assets: Assets) -> StopTokens:
    stop, tokenizer = generation.stop, assets.tokenizer
    own = frozenset(ends(generation, assets.eos_token_ids))
    return StopTokens(
        silent_ids=own if stop.include_stop else own.union(stop.token_ids),
        grammar_ids=own.difference(stop.token_ids) if generation.constraint else frozenset(),
        spellings={token: tokenizer.spelling(token) for token in work.stop_token_ids} if tokenizer else {},
    )


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


async def _started(generation: Generation, work: GenerateWork, call: CallContext, inbox: GenerateInbox) -> Started:
    """Return that the generation was taken; with the prompt's likelihoods, once they are there, where asked for."""
    num_prompt_tokens = len(work.prompt_token_ids)
    asked = generation.prompt_logprobs is not None
    return Started(
        request_id=call.request_id,
        model=generation.model.name,
        num_prompt_tokens=num_prompt_tokens,
        seed=None if generation.sampling.temperature == 0 else generation.seed,
        prompt_logprobs=await inbox.prompt_logprobs(num_prompt_tokens - 1) if asked else (),
    )
