"""Schedules out to every rank, acknowledgements in from every rank, joined window by window."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from controller.codec.ranks import encode_pattern, encode_window
from controller.core.plan import Topology
from controller.core.window_report import WindowReport, check_timings
from controller.rank_link import RankLink
from liger.digest import launch_digest, order_digest
from liger.domain import Fence
from liger.errors import GroupFailedError
from liger.schedule import MAX_PATTERNS, Pattern, Window, WindowOutcome


@dataclass(slots=True, kw_only=True)
class _Pending:
    window: Window
    digests: tuple[int, ...]  # of what each rank must launch
    published_s: float
    outcomes: dict[int, WindowOutcome] = field(default_factory=dict)  # by rank


class Dispatcher:
    """Publishes windows and joins what the ranks say of them.

    Args:
        links: One a rank, in rank order.
        fence: The epoch's.
        topology: Says which ranks draw tokens: those of the last stage, whose first attaches payloads.
    """

    def __init__(self, links: Sequence[RankLink], fence: Fence, topology: Topology) -> None:
        self._links = links
        self._fence = fence
        self._reporter = (topology.pp_size - 1) * topology.tp_size
        self._known: dict[int, tuple[int, ...]] = {}  # by pattern the ranks have: digest of what each launches
        self._pending: deque[_Pending] = deque()
        self._done: deque[WindowReport] = deque()
        self.arrived = asyncio.Event()  # an outcome is complete

    async def publish(self, pattern: Pattern, window: Window) -> None:
        """Send a window to every rank, in one order."""
        is_fresh = pattern.id not in self._known
        if is_fresh:
            self._known[pattern.id] = tuple(launch_digest(pattern.steps, link.rank) for link in self._links)
            if len(self._known) > MAX_PATTERNS:
                del self._known[next(iter(self._known))]  # the ranks forget it, too
        digests = tuple(order_digest(launches, window.batch_ids) for launches in self._known[pattern.id])
        published_s = asyncio.get_running_loop().time()
        self._pending.append(_Pending(window=window, digests=digests, published_s=published_s))
        requests = [encode_pattern(pattern)] if is_fresh else []
        requests.append(encode_window(window))  # once: the same goes to every rank
        for link in self._links:
            await link.publish(requests)

    def take(self) -> WindowReport | None:
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
        if outcome.launched_digest != pending.digests[rank]:
            raise GroupFailedError(f"rank {rank} launched window {outcome.number} in another order than published")
        check_timings(rank, outcome, pending.window)
        pending.outcomes[rank] = outcome
        while self._pending and len(self._pending[0].outcomes) == len(self._links):
            self._done.append(self._join(self._pending.popleft()))
            self.arrived.set()

    def _join(self, pending: _Pending) -> WindowReport:
        outcomes = [pending.outcomes[link.rank] for link in self._links]
        if len({outcome.sampled_digest for outcome in outcomes[self._reporter :]}) > 1:
            raise GroupFailedError(f"the ranks drew different tokens in window {pending.window.number}")
        return WindowReport(outcome=outcomes[self._reporter], timings=tuple(one.timings for one in outcomes))
