"""One epoch of a group: its ranks join, windows flow until a rank fails or the group is asked to end."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from controller.config import ControllerConfig
from controller.core.events import Event
from controller.dispatcher import Dispatcher
from controller.failures import first_failure
from controller.forming import Formed
from controller.planning import make_planning
from controller.timeline import Timeline
from liger.domain import Fence
from liger.errors import GroupFailedError, LigerError

_REST: Final = 4.0  # times as long as a search, after it
_CHECK_EVERY_S: Final = 1.0  # at most: the accounts of many blocks take milliseconds


class Epoch:
    """The ranks of a group under one fence, all joined.

    Args:
        fence: Goes on every message.
        formed: Its ranks, joined.
        config: Bounds.
        deliver: Takes what becomes of requests.
        timeline: Takes what ran.
    """

    def __init__(
        self,
        *,
        fence: Fence,
        formed: Formed,
        config: ControllerConfig,
        deliver: Callable[[Sequence[Event]], None],
        timeline: Timeline,
    ) -> None:
        self.fence = fence
        self.joined = formed.joined
        self.members = tuple(link.member for link in formed.links)
        self.planning = make_planning(fence, formed, config)
        self.scheduler = self.planning.scheduler
        self._links = formed.links
        self._config = config
        self._deliver = deliver
        self._timeline = timeline
        self._dispatcher = Dispatcher(formed.links, fence, formed.topology)
        self._cold = asyncio.Event()  # set when a window deserves a search
        self._checks_from_s = 0.0  # on the loop's clock
        self.wake = self._dispatcher.arrived  # set when there may be something to do

    async def serve(self) -> None:
        """Run windows until a rank fails.

        Raises:
            GroupFailedError: A rank failed, or did not do what was published.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for link in self._links:
                    await link.attach(self.fence)
                    tasks.create_task(self._dispatcher.listen(link))
                tasks.create_task(self._step_loop())
                tasks.create_task(self._search_loop())
        except* GroupFailedError as group:
            raise first_failure(group) from group

    async def leave(self) -> None:
        """Tell the ranks that the epoch is over."""
        await asyncio.gather(*(link.leave(self.fence) for link in self._links))

    async def _step_loop(self) -> None:
        """The algorithm: commit what came, expire what is late, publish what can run, wait."""
        while True:
            self.wake.clear()
            while (report := self._dispatcher.take()) is not None:
                events, spans = self.scheduler.commit(report, time.monotonic_ns())
                self._deliver(events)
                for rank, of_rank in spans.items():
                    self._timeline.add(rank, of_rank, of_rank.newest_ns)
            self._deliver(self.scheduler.expire(time.monotonic_ns()))
            while (planned := self.scheduler.next_window(time.monotonic_ns())) is not None:
                await self._dispatcher.publish(*planned)
            if self.planning.planner.next_cold() is not None:
                self._cold.set()
            self._check_integrity_if_idle()
            await self._wait()

    def _check_integrity_if_idle(self) -> None:
        """Check the accounts while there is time; wrong ones end the epoch, whose successor begins with new ones."""
        now_s = asyncio.get_running_loop().time()
        if not self.scheduler.is_idle or now_s < self._checks_from_s:
            return
        self._checks_from_s = now_s + _CHECK_EVERY_S
        try:
            self.scheduler.check_integrity()
        except LigerError as error:
            raise GroupFailedError(f"the accounts of memory are wrong: {error}") from error

    async def _search_loop(self) -> None:
        """Search beside the step loop for what was planned in haste."""
        planner = self.planning.planner
        while True:
            await self._cold.wait()
            self._cold.clear()
            while (key := planner.next_cold()) is not None:
                began_s = time.monotonic()
                planner.keep(key, await asyncio.to_thread(planner.find, key))
                await asyncio.sleep((time.monotonic() - began_s) * _REST)  # it holds the interpreter lock, too

    async def _wait(self) -> None:
        oldest_s = self._dispatcher.oldest_published_s()
        now_s = asyncio.get_running_loop().time()
        limit_s = None if oldest_s is None else oldest_s + self._config.window_limit_s - now_s
        deadline_ns = self.scheduler.next_deadline_ns()
        until_s = None if deadline_ns is None else max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9)
        waits_s = [each for each in (limit_s, until_s) if each is not None]
        try:
            async with asyncio.timeout(min(waits_s, default=None)):
                await self.wake.wait()
        except TimeoutError:
            if limit_s is not None and asyncio.get_running_loop().time() >= now_s + limit_s:
                limit = self._config.window_limit_s
                raise GroupFailedError(f"a window was not acknowledged for {limit:.0f} s") from None
