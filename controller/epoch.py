"""One epoch of a group: its ranks join, windows flow until a rank fails or the group is asked to end."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from controller.config import ControllerConfig
from controller.core.admission import ModelLimits
from controller.core.batch_manager import BatchLimits, BatchManager
from controller.core.block_manager import BlockManager
from controller.core.events import Event
from controller.core.planner import Planner
from controller.core.scheduler import Scheduler, SchedulerLimits
from controller.dispatcher import Dispatcher
from controller.failures import first_failure
from controller.membership.base import Member
from controller.rank_link import Joined, JoinPlan, RankLink
from liger.domain import BatchKind, Fence, ModelCard, Task
from liger.errors import GroupFailedError

NUM_SLOTS: Final = {"tensor": 1}  # batches in flight at most, by strategy


class Epoch:
    """The ranks of a group under one fence, all joined.

    Args:
        fence: Goes on every message.
        links: One a rank, in rank order.
        joined: What each rank answered, in rank order.
        config: Bounds.
        deliver: Takes what becomes of requests.
    """

    def __init__(
        self,
        *,
        fence: Fence,
        links: Sequence[RankLink],
        joined: Sequence[Joined],
        config: ControllerConfig,
        deliver: Callable[[Sequence[Event]], None],
    ) -> None:
        self.fence = fence
        self.joined = joined
        self.members = tuple(link.member for link in links)
        self.blocks = BlockManager(num_blocks=min(each.num_blocks for each in joined), block_size=joined[0].block_size)
        limits = BatchLimits(max_batch_tokens=config.max_batch_tokens, max_sequences=config.max_sequences)
        self.batches = BatchManager(limits, self.blocks)
        self.planner = Planner(joined[0].forwards)
        self.depth = NUM_SLOTS[config.strategy]
        self.scheduler = Scheduler(
            fence=fence,
            limits=_limits(config, self.depth, self.members[0]),
            planner=self.planner,
            batches=self.batches,
        )
        self._links = links
        self._config = config
        self._deliver = deliver
        self._dispatcher = Dispatcher(links, fence)
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

    async def leave(self) -> None:
        """Tell the ranks that the epoch is over."""
        await asyncio.gather(*(link.leave(self.fence) for link in self._links))

    async def _step_loop(self) -> None:
        """The algorithm: commit what came, expire what is late, publish what can run, wait."""
        while True:
            self.wake.clear()
            while (outcome := self._dispatcher.take()) is not None:
                self._deliver(self.scheduler.commit(outcome, time.monotonic_ns()))
            self._deliver(self.scheduler.expire(time.monotonic_ns()))
            while (planned := self.scheduler.next_window(time.monotonic_ns())) is not None:
                await self._dispatcher.publish(*planned)
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


def _limits(config: ControllerConfig, depth: int, member: Member) -> SchedulerLimits:
    return SchedulerLimits(
        depth=depth,
        windows_ahead=config.windows_ahead,
        max_requests=config.max_requests,
        model=ModelLimits(
            max_length=member.model.max_length,
            vocabulary_size=member.model.vocabulary_size,
            num_token_types=member.model.num_token_types,
        ),
    )


async def form_epoch(
    *,
    fence: Fence,
    members: Sequence[Member],
    config: ControllerConfig,
    deliver: Callable[[Sequence[Event]], None],
    on_progress: Callable[[int, str, float], None],
) -> Epoch:
    """Make the members join, in rank order.

    Args:
        fence: The new epoch's.
        members: One a rank, in rank order.
        config: Bounds.
        deliver: Takes what becomes of requests.
        on_progress: Takes (rank, phase, share done).

    Raises:
        GroupFailedError: A rank could not join.
    """
    links = [RankLink(member, rank) for rank, member in enumerate(members)]
    try:
        joined = await _join_all(links, fence, config, on_progress)
    except BaseException:
        await asyncio.gather(*(link.leave(fence) for link in links))
        raise
    return Epoch(fence=fence, links=links, joined=joined, config=config, deliver=deliver)


async def _join_all(
    links: Sequence[RankLink], fence: Fence, config: ControllerConfig, on_progress: Callable[[int, str, float], None]
) -> list[Joined]:
    members = [link.member for link in links]
    try:
        async with asyncio.TaskGroup() as tasks:
            joins = [tasks.create_task(_join(link, members, fence, config, on_progress)) for link in links]
    except* GroupFailedError as group:
        raise first_failure(group) from group
    joined = [join.result() for join in joins]
    _check_joined(joined, members[0].model)
    return joined


def _check_joined(joined: Sequence[Joined], card: ModelCard) -> None:
    first = joined[0]
    if any(each.forwards != first.forwards for each in joined):
        raise GroupFailedError("the ranks reported different segments; all must run the same version and model")
    if first.block_size < 1 or any(each.block_size != first.block_size for each in joined):
        raise GroupFailedError("the ranks have different KV blocks; start all workers with the same --block-size")
    needed = {BatchKind.PREFILL, BatchKind.DECODE} if Task.GENERATE in card.tasks else set()
    if not needed | {BatchKind.ENCODE} <= first.forwards.keys():
        raise GroupFailedError(f"the ranks cannot run what model {card.name} is for; use one version everywhere")


async def _join(
    link: RankLink,
    members: Sequence[Member],
    fence: Fence,
    config: ControllerConfig,
    on_progress: Callable[[int, str, float], None],
) -> Joined:
    member = link.member
    plan = JoinPlan(
        fence=fence,
        tp_rank=link.rank % member.tp_size,
        tp_size=member.tp_size,
        pp_stage=link.rank // member.tp_size,
        pp_size=member.pp_size,
        rendezvous_endpoint=members[0].rendezvous_endpoint,
        num_slots=NUM_SLOTS[config.strategy],
        max_batch_tokens=config.max_batch_tokens,
        num_rows=config.max_sequences,
    )
    return await link.join(plan, config.join_limit_s, lambda phase, share: on_progress(link.rank, phase, share))
