"""A rank's life: idle, joining, executing under one fence, idle again."""

import asyncio
import logging
from collections.abc import AsyncIterator
from enum import Enum, auto
from typing import Final, TypeVar

from liger.domain import Fence
from liger.errors import LigerError, StaleFenceError
from liger.profile import ProfileTable
from liger.schedule import Pattern, Window, WindowOutcome
from worker.guard import WindowGuard
from worker.kv_hazards import KvHazards
from worker.launcher import Launcher, WindowRun, read_at_once
from worker.rank import Joined, JoinPlan, Progress, RankEngine

_LOG: Final = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")

STOP_LIMIT_S: Final = 10.0  # for the launching thread to end


class SessionState(Enum):
    """Where a rank is in its life."""

    IDLE = auto()
    JOINING = auto()
    JOINED = auto()


class Session:
    """Brings one controller's epochs to the engine; at most one at a time.

    Args:
        engine: What computes.
        checks_schedules: Whether it is watched that no batch spoils the KV blocks of another.
    """

    def __init__(self, engine: RankEngine, *, checks_schedules: bool = False) -> None:
        self.state = SessionState.IDLE
        self._engine = engine
        self._checks_schedules = checks_schedules
        self._fence: Fence | None = None  # of the latest epoch, running or not
        self._launcher = Launcher()  # for the worker's life
        self._reader = Launcher("reader")  # likewise, of outcomes of a device that is behind
        self._windows: WindowRun | None = None
        self._guard: WindowGuard | None = None
        self._outcomes: asyncio.Queue[WindowOutcome | LigerError] = asyncio.Queue()
        self._turn = asyncio.Lock()  # the engine joins and leaves one at a time
        self._last_executed = 0
        self._is_attached = False

    async def join(self, plan: JoinPlan, progress: asyncio.Queue[tuple[str, float] | None]) -> Joined:
        """Begin an epoch; an older one that runs is ended first. Progress goes to the queue, then None.

        Raises:
            StaleFenceError: The plan's epoch is not newer than the last.
            LigerError: The engine could not join.
        """
        loop = asyncio.get_running_loop()
        try:
            self._check_newer(plan.fence)
            self._fence = plan.fence
            self._engine.abort()
            async with self._turn:
                await self._end()
                return await self._begin(plan, lambda *said: _post(loop, progress, said))
        finally:
            loop.call_soon(progress.put_nowait, None)

    def start(self) -> None:
        """Begin to take epochs."""
        self._launcher.start()
        self._reader.start()

    async def profile(
        self, fence: Fence, progress: asyncio.Queue[tuple[str, float] | None], *, fresh: bool
    ) -> ProfileTable:
        """Measure the model before the epoch's conversation. Progress goes to the queue, then None.

        Raises:
            StaleFenceError: Another epoch runs, or none, or its conversation has begun.
            LigerError: The engine could not measure.
        """
        loop = asyncio.get_running_loop()
        try:
            if self.state is not SessionState.JOINED or fence != self._fence or self._is_attached:
                raise StaleFenceError(f"epoch {fence.epoch} of group {fence.group} cannot be measured now")
            work = self._launcher.call(
                lambda: self._engine.profile(lambda *said: _post(loop, progress, said), fresh=fresh)
            )
            return await asyncio.wrap_future(work)
        finally:
            loop.call_soon(progress.put_nowait, None)

    def attach(self, fence: Fence) -> int:
        """Begin the epoch's conversation; return the last window executed.

        Raises:
            StaleFenceError: Another epoch runs, or none.
        """
        if self.state is not SessionState.JOINED or fence != self._fence:
            raise StaleFenceError(f"this rank has not joined epoch {fence.epoch} of group {fence.group}")
        if self._is_attached:
            raise StaleFenceError(f"epoch {fence.epoch} has its conversation already")
        self._is_attached = True
        return self._last_executed

    def detach(self) -> None:
        """End the conversation that `attach` began."""
        self._is_attached = False

    def learn(self, pattern: Pattern) -> None:
        """Keep a pattern.

        Raises:
            LigerError: It is refused, or no epoch runs.
        """
        self._running()[0].learn(pattern)

    def launch(self, window: Window) -> None:
        """Queue a window for the launching thread.

        Raises:
            LigerError: It is refused, or no epoch runs.
        """
        guard, windows = self._running()
        pattern = guard.admit(window)
        self._launcher.post(lambda: windows(pattern, window))

    async def outcomes(self) -> AsyncIterator[WindowOutcome]:
        """Give acknowledgements as windows are done.

        Raises:
            LigerError: A window failed.
        """
        while True:
            outcome = await self._outcomes.get()
            if isinstance(outcome, LigerError):
                raise outcome
            self._last_executed = outcome.number
            yield outcome

    async def leave(self, fence: Fence) -> None:
        """End the epoch, if it is this one or an older one.

        Raises:
            StaleFenceError: A newer epoch runs.
        """
        if self._fence is not None and _order(fence) < _order(self._fence):
            raise StaleFenceError(f"epoch {self._fence.epoch} runs, {fence.epoch} is over already")
        await self.stop()

    async def stop(self) -> None:
        """End whatever runs."""
        self._engine.abort()
        async with self._turn:
            await self._end()

    async def close(self) -> None:
        """End whatever runs, and the launching thread."""
        try:
            await self.stop()
        finally:
            self._launcher.stop()
            self._reader.stop()

    def _check_newer(self, fence: Fence) -> None:
        if self._fence is not None and _order(fence) <= _order(self._fence):
            raise StaleFenceError(f"epoch {fence.epoch} is not newer than {self._fence.epoch}")

    def _running(self) -> tuple[WindowGuard, WindowRun]:
        if self._guard is None or self._windows is None:
            raise StaleFenceError("no epoch runs on this rank")
        return self._guard, self._windows

    async def _begin(self, plan: JoinPlan, progress: Progress) -> Joined:
        self.state = SessionState.JOINING
        try:
            joined = await asyncio.wrap_future(self._launcher.call(lambda: self._engine.join(plan, progress)))
        except BaseException:
            self.state = SessionState.IDLE
            raise
        loop = asyncio.get_running_loop()
        outcomes: asyncio.Queue[WindowOutcome | LigerError] = asyncio.Queue()
        self._outcomes = outcomes
        self._guard = WindowGuard(
            fence=plan.fence,
            forwards=joined.forwards,
            num_slots=plan.num_slots,
            tp_size=plan.tp_size,
            pp_size=plan.pp_size,
            hazards=KvHazards(joined.block_size) if self._checks_schedules else None,
        )
        read = self._reader.post if self._engine.runs_ahead else read_at_once
        self._windows = WindowRun(self._engine.run, lambda outcome: _post(loop, outcomes, outcome), read)
        self._last_executed = 0
        self.state = SessionState.JOINED
        _LOG.info("joined", extra={"group": plan.fence.group, "epoch": plan.fence.epoch, "rank": plan.rank})
        return joined

    async def _end(self) -> None:
        if self._windows is not None:
            self._windows.is_over = True
            self._outcomes.put_nowait(StaleFenceError("the epoch ended on this rank"))
        self._windows, self._guard = None, None
        self.state = SessionState.IDLE
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await asyncio.wrap_future(self._launcher.call(self._engine.leave))
        except TimeoutError:
            raise LigerError("the launching thread does not end; this worker must be started again") from None


def _post(loop: asyncio.AbstractEventLoop, items: asyncio.Queue[ItemT], item: ItemT) -> None:
    """Put an item into a loop's queue from any thread."""
    loop.call_soon_threadsafe(items.put_nowait, item)


def _order(fence: Fence) -> tuple[int, int]:
    return (fence.leader_term, fence.epoch)
