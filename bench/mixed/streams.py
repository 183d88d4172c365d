"""Clients that read generations token by token, one after another, and note when what came."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.link.work import Call
from liger.client import AsyncClient
from liger.client.results import Delta
from liger.errors import LigerError

_CALL_LIMIT_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Tokens of a stream that came in one message."""

    at_s: float  # from the begin
    waited_s: float  # since the message before, or since the call if it is the first
    num_tokens: int
    is_first: bool


class Streams:
    """Clients of one model.

    Args:
        client: Of the gateway.
        model: Name of the model.
    """

    def __init__(self, client: AsyncClient, model: str) -> None:
        self._client = client
        self._model = model

    async def read(self, streams: Sequence[Iterator[Call]], duration_s: float) -> list[Arrival]:
        """Read so many streams at once for a while (closed loop) and return what came; the last ones are cut off.

        Raises:
            LigerError: A generation fails.
        """
        began_s = time.perf_counter()
        arrivals: list[Arrival] = []
        limit = asyncio.timeout(duration_s)
        try:
            async with limit, asyncio.TaskGroup() as tasks:
                for calls in streams:
                    tasks.create_task(self._read_each(calls, arrivals, began_s))
        except* LigerError as failures:
            raise next(error for error in failures.exceptions if isinstance(error, LigerError)) from None
        except* TimeoutError:
            if not limit.expired():
                raise
        return arrivals

    async def _read_each(self, calls: Iterator[Call], arrivals: list[Arrival], began_s: float) -> None:
        for call in calls:
            before_s, is_first = time.perf_counter(), True
            stream = self._client.generate(
                self._model,
                call.token_ids,
                max_tokens=call.num_new_tokens,
                ignore_eos=True,
                temperature=0.0,
                timeout_s=_CALL_LIMIT_S,
            )
            async for event in stream.events():
                if not isinstance(event, Delta) or not event.token_ids:
                    continue
                now_s = time.perf_counter()
                arrivals.append(
                    Arrival(
                        at_s=now_s - began_s,
                        waited_s=now_s - before_s,
                        num_tokens=len(event.token_ids),
                        is_first=is_first,
                    )
                )
                before_s, is_first = now_s, False
