"""Schedules out to every rank, acknowledgements in from every rank, joined window by window."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from controller.rank_link import RankLink
from liger.domain import Fence
from liger.errors import GroupFailedError
from liger.schedule import Pattern, Window, WindowOutcome, WindowTimings


@dataclass(slots=True, kw_only=True)
class _Pending:
    window: Window
    published_s: float
    outcomes: dict[int, WindowOutcome] = field(default_factory=dict)  # by rank


class Dispatcher:
    """Publishes windows and joins what the ranks say of them.

    Args:
        links: One a rank, in rank order.
        fence: The epoch's.
    """

    def __init__(self, links: Sequence[RankLink], fence: Fence) -> None:
        self._links = links
        self._fence = fence
        self._known: set[int] = set()  # patterns the ranks have
        self._pending: deque[_Pending] = deque()
        self._done: deque[WindowOutcome] = deque()
        self.arrived = asyncio.Event()  # an outcome is complete

    async def publish(self, pattern: Pattern, window: Window) -> None:
        """Send a window to every rank, in one order."""
        loop = asyncio.get_running_loop()
        self._pending.append(_Pending(window=window, published_s=loop.time()))
        fresh = None if pattern.id in self._known else pattern
        for link in self._links:
            await link.publish(fresh, window)
        self._known.add(pattern.id)

    def take(self) -> WindowOutcome | None:
        """Return the next window that all ranks have acknowledged, or None."""
        return self._done.popleft() if self._done else None

    def oldest_published_s(self) -> float | None:
        """Return when the oldest unacknowledged window was published, on the loop's clock."""
        return self._pending[0].published_s if self._pending else None

    async def listen(self, link: RankLink) -> None:
        """Take one rank's acknowledgements until it fails.

        Raises:
            GroupFailedError: The rank failed, or does not run what was published.
        """
        async for outcome in link.outcomes():
            self._add(link.rank, outcome)

    def _add(self, rank: int, outcome: WindowOutcome) -> None:
        pending = next((one for one in self._pending if one.window.number == outcome.number), None)
        if outcome.fence != self._fence or pending is None or rank in pending.outcomes:
            raise GroupFailedError(f"rank {rank} acknowledged window {outcome.number}, which is not due from it")
        if outcome.launched_digest != pending.window.order_digest:
            raise GroupFailedError(f"rank {rank} launched window {outcome.number} in another order than published")
        pending.outcomes[rank] = outcome
        while self._pending and len(self._pending[0].outcomes) == len(self._links):
            self._done.append(_join(self._pending.popleft()))
            self.arrived.set()


def _join(pending: _Pending) -> WindowOutcome:
    outcomes = pending.outcomes
    if len({outcome.sampled_digest for outcome in outcomes.values()}) > 1:
        raise GroupFailedError(f"the ranks drew different tokens in window {pending.window.number}")
    return replace(outcomes[0], timings=_slowest([outcome.timings for outcome in outcomes.values()]))


def _slowest(timings: Sequence[WindowTimings]) -> WindowTimings:
    return max(timings, key=lambda each: each.ended_ns - each.started_ns)
