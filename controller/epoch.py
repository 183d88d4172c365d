"""One epoch of a group: its ranks join, windows flow until a rank fails or the group is asked to end."""

import asyncio
import time
from collections.abc import Callable, Sequence

from controller.config import ControllerConfig
from controller.core.admission import ModelLimits
from controller.core.batch_manager import BatchLimits, BatchManager
from controller.core.block_manager import BlockManager
from controller.core.cost_model import CostModel
from controller.core.depth import DepthControl
from controller.core.events import Event
from controller.core.explain import explain
from controller.core.interleave import InterleaveOptions
from controller.core.observer import Observer
from controller.core.plan import Strategy, Topology
from controller.core.planner import Planner
from controller.core.scheduler import Scheduler, SchedulerLimits
from controller.dispatcher import Dispatcher
from controller.failures import first_failure
from controller.forming import Formed, num_slots, topology_of
from controller.timeline import Timeline
from liger.domain import Fence, ModelCard
from liger.errors import GroupFailedError, UnavailableError
from liger.views import Explained, PlannedBatch, ProfileView


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
        self.joined = joined = formed.joined
        self.members = tuple(link.member for link in formed.links)
        self.blocks = BlockManager(num_blocks=min(each.num_blocks for each in joined), block_size=joined[0].block_size)
        card = self.members[0].model
        strategy, topology = Strategy(config.strategy), topology_of(self.members)
        forwards = joined[0].forwards
        self._costs = CostModel(formed.profile) if formed.profile is not None else None
        self._topology = topology
        self._forwards = forwards
        self.depth = DepthControl(
            strategy=strategy,
            num_stages=topology.pp_size,
            max_depth=num_slots(config, topology),
            forwards=forwards,
            costs=self._costs,
        )
        limits = BatchLimits(max_batch_tokens=config.max_batch_tokens, max_sequences=config.max_sequences)
        self.batches = BatchManager(limits, self.blocks, self.depth)
        self.planner = Planner(
            forwards,
            strategy=strategy,
            topology=topology,
            costs=self._costs,
            options=InterleaveOptions(
                slack=config.primary_slack, window_ns=config.window_ms * 1e6, max_pieces=config.max_pieces
            ),
        )
        self.observer = Observer(forwards, self._costs)
        self.scheduler = Scheduler(
            fence=fence,
            limits=_limits(config, topology, card),
            planner=self.planner,
            batches=self.batches,
            depth=self.depth,
            observer=self.observer,
        )
        self._links = formed.links
        self._config = config
        self._deliver = deliver
        self._timeline = timeline
        self._dispatcher = Dispatcher(formed.links, fence, topology)
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
        except* GroupFailedError as group:
            raise first_failure(group) from group

    def explain(self, batches: Sequence[PlannedBatch], depth: int) -> Explained:
        """Plan made-up batches as this epoch's planner would.

        Raises:
            UnavailableError: The ranks have measured nothing.
        """
        if self._costs is None:
            group = self.fence.group
            raise UnavailableError(f"group {group} plans nothing: that takes several ranks and --strategy interleaved")
        return explain(batches, depth, forwards=self._forwards, topology=self._topology, costs=self._costs)

    def profile(self) -> ProfileView:
        """Return what the ranks measured, and how well predictions hold."""
        costs = self._costs
        if costs is None:
            return ProfileView()
        return ProfileView(table=costs.table, corrections=costs.corrections(), prediction_error=costs.error)

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
                    self._timeline.add(rank, of_rank)
            self._deliver(self.scheduler.expire(time.monotonic_ns()))
            while (planned := self.scheduler.next_window(time.monotonic_ns())) is not None:
                await self._dispatcher.publish(*planned)
            self.planner.search_cold()  # the ranks have work meanwhile
            await self._wait()

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


def _limits(config: ControllerConfig, topology: Topology, card: ModelCard) -> SchedulerLimits:
    return SchedulerLimits(
        windows_ahead=max(config.windows_ahead, topology.pp_size),
        max_requests=config.max_requests,
        model=ModelLimits(
            max_length=card.max_length, vocabulary_size=card.vocabulary_size, num_token_types=card.num_token_types
        ),
    )
