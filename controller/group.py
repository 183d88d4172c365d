"""A group's life: wait for members, form an epoch, serve, and begin again when a rank fails.

WAITING → FORMING → SERVING → WAITING …; DRAINING instead of SERVING once it is asked to take no new work.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from controller.backoff import Backoff
from controller.config import ControllerConfig
from controller.core.events import Event, RequestBroken, RequestEnded
from controller.core.requests import Request
from controller.epoch import Epoch
from controller.failures import first_failure
from controller.forming import by_rank, form_epoch
from controller.membership.base import Member, Membership
from controller.rank_link import RankLostError
from controller.renewal import Renewal, RenewalAskedError
from controller.status import GroupState, GroupStatus, ranks_of
from controller.timeline import Timeline
from liger.domain import Fence, FinishReason, ModelCard
from liger.errors import GroupFailedError, UnavailableError
from liger.views import Explained, PlannedBatch, ProfileView

_LOG: Final = logging.getLogger(__name__)

RETRY_S: Final = 1.0  # before a failed group is formed again; doubles with every failure
MAX_RETRY_S: Final = 30.0

Sink = Callable[[Event, Fence, Sequence[str]], None]
"""Takes an event of one request, with the epoch and the workers that made it."""


class Group:
    """The ranks that hold one copy of a model.

    Args:
        name: As the workers are configured.
        config: Bounds.
        membership: Gives epochs; loses workers that are found dead.
        on_change: Called when the group's state changed.
    """

    def __init__(
        self, *, name: str, config: ControllerConfig, membership: Membership, on_change: Callable[[], None]
    ) -> None:
        self.name = name
        self.state = GroupState.WAITING
        self._config = config
        self._membership = membership
        self._on_change = on_change
        self.model: ModelCard | None = None  # of the latest members, kept while none are there
        self._members: tuple[Member, ...] = ()
        self._members_changed = asyncio.Event()
        self._epoch: Epoch | None = None
        self.timeline = Timeline()
        self._last_epoch = 0
        self._renewal = Renewal()
        self._sinks: dict[str, Sink] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False
        self._detail = ""
        self._progress: dict[int, float] = {}
        self._backoff = Backoff(RETRY_S, MAX_RETRY_S)

    @property
    def members(self) -> tuple[Member, ...]:
        """Workers that hold a lease for this group."""
        return self._members

    @property
    def num_requests(self) -> int:
        """Requests under way."""
        return len(self._sinks)

    def set_members(self, members: Sequence[Member]) -> None:
        """Take the workers that hold a lease for this group, oldest first."""
        if self._members != tuple(members):
            self._members = tuple(members)
            self.model = members[0].model if members else self.model
            self._members_changed.set()

    def submit(self, request: Request, sink: Sink) -> None:
        """Take a request; `sink` gets its events.

        Raises:
            UnavailableError: The group does not serve now.
            LigerError: As `Scheduler.submit`.
        """
        epoch = self._serving_epoch()
        epoch.scheduler.submit(request, time.monotonic_ns())
        self._sinks[request.request_id] = sink
        self._idle.clear()
        epoch.wake.set()

    def cancel(self, request_id: str, sample: int | None, reason: FinishReason) -> None:
        """End a request or one of its samples; unknown ids are ignored."""
        if self._epoch is not None:
            self._deliver(self._epoch.scheduler.cancel(request_id, sample, reason, time.monotonic_ns()))
            self._epoch.wake.set()

    def acknowledge(self, request_id: str, sample: int, num_tokens: int) -> None:
        """Note how many tokens of a sample its client has taken; unknown ones are ignored."""
        if self._epoch is not None:
            self._epoch.scheduler.acknowledge(request_id, sample, num_tokens)
            self._epoch.wake.set()

    def close(self) -> None:
        """Form no epoch again; whoever runs the group cancels it then."""
        self._is_closed = True

    async def run(self) -> None:
        """Form and serve, for as long as the controller runs."""
        while True:
            await self._wait_for_members()
            try:
                await self._guarded_epoch(by_rank(self._members))
            except RenewalAskedError:
                _LOG.info("the ranks are to measure anew", extra={"group": self.name, "epoch": self._last_epoch})
            except GroupFailedError as error:
                if self._is_closed:  # the failure came with the cancel, and a TaskGroup raises it in the cancel's place
                    return
                await self._failed(error)

    async def drain(self, limit_s: float) -> tuple[int, int]:
        """Take no new work until the next epoch, finish what is under way within the limit.

        Returns:
            Requests that were finished, and requests that were not.
        """
        if self.state is GroupState.SERVING:
            self._set_state(GroupState.DRAINING)
        before = len(self._sinks)
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        return before - len(self._sinks), len(self._sinks)

    async def renew_profile(self, limit_s: float) -> tuple[int, int, int]:
        """Finish what is under way within the limit, and begin an epoch in which the ranks measure anew.

        Returns:
            The epoch that ends, requests that were finished, and requests that were not.

        Raises:
            LigerError: It does not serve now, has no profile, or the epoch ended by itself.
        """
        epoch = self._serving_epoch()
        epoch.planning.check_profiled()
        try:
            finished, abandoned = await self.drain(limit_s)
        except asyncio.CancelledError:
            if self._epoch is epoch:
                self._set_state(GroupState.SERVING)
            raise
        if self._epoch is not epoch:
            raise UnavailableError(f"group {self.name}'s epoch ended meanwhile; try again", retry_after_s=RETRY_S)
        self._renewal.ask()
        return epoch.fence.epoch, finished, abandoned

    def status(self) -> GroupStatus:
        """Return its state, as it is shown."""
        epoch = self._epoch
        return GroupStatus(
            name=self.name,
            model=self.model.name if self.model else "",
            state=self.state,
            epoch=self._last_epoch,
            strategy=self._config.strategy,
            depth=epoch.scheduler.depth if epoch else 0,
            ranks=ranks_of(epoch.members, epoch.joined) if epoch else ranks_of(self._members),
            world_size=self._members[0].world_size if self._members else 0,
            detail=self._detail,
            progress=min(self._progress.values(), default=0.0),
            **(epoch.planning.shown() if epoch else {}),
        )

    def explain(self, batches: Sequence[PlannedBatch], depth: int) -> Explained:
        """Plan made-up batches as this group would.

        Raises:
            UnavailableError: It does not serve now, or has measured nothing.
        """
        if self._epoch is None:
            raise UnavailableError(f"group {self.name} does not serve now; try again", retry_after_s=RETRY_S)
        return self._epoch.planning.explain(batches, depth)

    def profile(self) -> ProfileView:
        """Return what the ranks measured, and how well predictions hold."""
        return self._epoch.planning.profile() if self._epoch else ProfileView()

    def _serving_epoch(self) -> Epoch:
        if self._epoch is None or self.state is not GroupState.SERVING:
            raise UnavailableError(f"group {self.name} does not serve now; try again", retry_after_s=RETRY_S)
        return self._epoch

    async def _wait_for_members(self) -> None:
        while not self._members or len(self._members) < self._members[0].world_size:
            if self._members:
                missing = self._members[0].world_size - len(self._members)
                self._detail = f"waiting for {missing} more worker{'s' if missing > 1 else ''}"
            await self._members_changed.wait()
            self._members_changed.clear()

    async def _guarded_epoch(self, members: Sequence[Member]) -> None:
        """Run an epoch; whatever it breaks on ends this group's epoch alone."""
        try:
            await self._run_epoch(members)
        except GroupFailedError:
            raise
        except Exception as error:
            _LOG.exception("an epoch failed inside", extra={"group": self.name, "epoch": self._last_epoch})
            raise GroupFailedError("the controller failed inside; its log has the details") from error

    async def _run_epoch(self, members: Sequence[Member]) -> None:
        self._last_epoch = await self._membership.next_epoch(self.name)
        fence = Fence(leader_term=self._membership.leader_term, group=self.name, epoch=self._last_epoch)
        self._set_state(GroupState.FORMING)
        self._progress = dict.fromkeys(range(len(members)), 0.0)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch_members(members))
                tasks.create_task(self._renewal.watch())
                tasks.create_task(self._form_and_serve(fence, members))
        except* GroupFailedError as group:
            raise first_failure(group) from group

    async def _form_and_serve(self, fence: Fence, members: Sequence[Member]) -> None:
        formed = await form_epoch(
            fence=fence,
            members=members,
            config=self._config,
            on_progress=self._on_progress,
            fresh=self._renewal.is_wanted,
        )
        self._renewal.done()
        self.timeline.clear()
        epoch = Epoch(fence=fence, formed=formed, config=self._config, deliver=self._deliver, timeline=self.timeline)
        try:
            self._epoch = epoch
            self._detail = ""
            self._backoff.reset()
            self._set_state(GroupState.SERVING)
            await epoch.serve()
        finally:
            self._epoch = None
            self._detail = f"epoch {self._last_epoch} is ending"
            self._set_state(GroupState.WAITING)
            error = GroupFailedError(f"group {self.name} {self._renewal.reason}; try again", retry_after_s=RETRY_S)
            self._deliver_to(epoch, epoch.scheduler.fail_all(error))
            await epoch.leave()

    async def _watch_members(self, members: Sequence[Member]) -> None:
        """Fail when one of the epoch's members loses its lease."""
        while True:
            lost = {member.worker_id for member in members} - {member.worker_id for member in self._members}
            if lost:
                raise GroupFailedError(f"{', '.join(sorted(lost))} lost its lease")
            self._members_changed.clear()
            await self._members_changed.wait()

    async def _failed(self, error: GroupFailedError) -> None:
        _LOG.warning(
            "the group's epoch ended", extra={"group": self.name, "epoch": self._last_epoch, "error": str(error)}
        )
        self._set_state(GroupState.WAITING)
        self._detail = f"epoch {self._last_epoch} ended: {error.message}"
        if isinstance(error, RankLostError):
            await self._membership.evict(error.worker_id)
        await self._backoff.wait(self._members_changed)

    def _deliver(self, events: Sequence[Event]) -> None:
        if self._epoch is not None:
            self._deliver_to(self._epoch, events)

    def _deliver_to(self, epoch: Epoch, events: Sequence[Event]) -> None:
        worker_ids = [member.worker_id for member in epoch.members]
        for event in events:
            is_last = isinstance(event, RequestEnded | RequestBroken)
            sink = self._sinks.pop(event.request_id, None) if is_last else self._sinks.get(event.request_id)
            if sink is not None:
                sink(event, epoch.fence, worker_ids)
        if not self._sinks:
            self._idle.set()

    def _on_progress(self, rank: int, phase: str, share: float) -> None:
        self._progress[rank] = share
        self._detail = phase

    def _set_state(self, state: GroupState) -> None:
        if state is not self.state:
            self.state = state
            _LOG.info("group is %s", state.name.lower(), extra={"group": self.name, "epoch": self._last_epoch})
            self._on_change()
