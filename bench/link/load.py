"""Sends calls through a gateway and notes how long each took."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

from bench.link.figures import Answer
from bench.link.work import Call
from liger.client import AsyncClient, Timings
from liger.errors import LigerError

CALL_LIMIT_S: Final = 60.0


class LoadGenerator:
    """A client of one model.

    Args:
        client: Of the gateway.
        model: Name of the model.
    """

    def __init__(self, client: AsyncClient, model: str) -> None:
        self._client = client
        self._model = model
        self._began_s = 0.0

    async def send_at(self, calls: Sequence[Call], arrivals_s: Sequence[float]) -> list[Answer]:
        """Send each call at its time, whether or not others were answered (open loop).

        Args:
            calls: At least as many as arrivals.
            arrivals_s: In seconds from now, ascending.
        """
        self._began_s = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            sent = []
            for call, at_s in zip(calls, arrivals_s, strict=False):
                await asyncio.sleep(at_s - self._now_s())
                sent.append(tasks.create_task(self._ask(call, at_s)))
        return [task.result() for task in sent]

    async def keep_busy(self, calls: Iterable[Call], num_outstanding: int) -> list[Answer]:
        """Send all calls, so many under way at once (closed loop)."""
        self._began_s = time.perf_counter()
        left = iter(calls)
        answers: list[Answer] = []

        async def send_next() -> None:
            for call in left:
                answers.append(await self._ask(call, self._now_s()))  # noqa: PERF401 - one after the other

        async with asyncio.TaskGroup() as tasks:
            for _ in range(num_outstanding):
                tasks.create_task(send_next())
        return answers

    def _now_s(self) -> float:
        return time.perf_counter() - self._began_s

    async def _ask(self, call: Call, scheduled_s: float) -> Answer:
        try:
            timings = await (self._generate(call) if call.num_new_tokens else self._embed(call))
        except LigerError as error:
            return Answer(scheduled_s=scheduled_s, ended_s=self._now_s(), num_tokens=0, error=error.message or "failed")
        return Answer(
            scheduled_s=scheduled_s,
            ended_s=self._now_s(),
            num_tokens=call.num_tokens,
            compute_ns=timings.compute_ns,
            exposed_ns=timings.exposed_communication_ns,
            depth=timings.depth,
        )

    async def _embed(self, call: Call) -> Timings:
        reply = await self._client.embed(self._model, [call.token_ids], timeout_s=CALL_LIMIT_S)
        return reply.timings

    async def _generate(self, call: Call) -> Timings:
        stream = self._client.generate(
            self._model,
            call.token_ids,
            max_tokens=call.num_new_tokens,
            ignore_eos=True,
            temperature=0.0,
            timeout_s=CALL_LIMIT_S,
        )
        async for _ in stream.events():
            pass
        assert stream.timings is not None, "a stream that ended well has them"
        assert stream.finished[0].num_tokens == call.num_new_tokens, "every run makes the same number of tokens"
        return stream.timings
