"""One group's epoch: requests in, windows out, outcomes in, events out."""

from collections import deque
from typing import Final

from controller.core.admission import SchedulerLimits, check_deadline, check_fits, check_room
from controller.core.batch import Batch
from controller.core.batch_manager import BatchManager
from controller.core.depth import DepthControl
from controller.core.events import Event
from controller.core.ledger import Ledger
from controller.core.observer import Observer, Ran
from controller.core.plan import Plan
from controller.core.planner import Planner
from controller.core.published import Published
from controller.core.requests import EncodeWork, GenerateWork, Request
from controller.core.sequence import samples_of
from controller.core.settlement import Settlement
from controller.core.window_report import WindowReport
from liger.digest import order_digest
from liger.domain import BatchKind, Fence, FinishReason
from liger.errors import (
    DeadlineError,
    DuplicateRequestError,
    GroupFailedError,
    LigerError,
    RequestCancelledError,
)
from liger.schedule import BatchOutcome, Pattern, Window

_TIMED_RARELY: Final = 8  # one in so many windows reports each step in any case: the observer learns from it


class Scheduler:
    """Decides what the ranks of one group do next, and what their results mean.

    Args:
        fence: Goes on every window.
        limits: Bounds.
        planner: Lays batches on lanes.
        batches: Forms batches.
        depth: Says how many batches may be in flight.
        observer: Reads the ranks' timings.
    """

    def __init__(
        self,
        *,
        fence: Fence,
        limits: SchedulerLimits,
        planner: Planner,
        batches: BatchManager,
        depth: DepthControl,
        observer: Observer,
    ) -> None:
        self._fence = fence
        self._limits = limits
        self._planner = planner
        self._batches = batches
        self._depth = depth
        self._observer = observer
        self._ledger = Ledger()
        self._settlement = Settlement(self._ledger, batches)
        self._in_flight: list[Batch] = []  # oldest first; segments are left to publish
        self._published: deque[Published] = deque()
        self._begun_ns = 0  # when the ranks took up the oldest published window
        self._results: dict[int, BatchOutcome] = {}  # of batches with a segment left, which brings tokens back
        self._free_slots = list(range(depth.max_depth - 1, -1, -1))
        self._last_window_ns = 0  # how long the last acknowledged window took
        self.num_windows = 0

    @property
    def num_requests(self) -> int:
        """Requests under way."""
        return len(self._ledger)

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way and no window is unacknowledged."""
        return not self._ledger and not self._published and not self._in_flight

    @property
    def num_in_flight(self) -> int:
        """Batches that are published in part, or whose results are not there yet."""
        unacknowledged = {batch.batch_id for one in self._published for batch in one.plan.batches}
        return len(unacknowledged | {batch.batch_id for batch in self._in_flight})

    @property
    def depth(self) -> int:
        """Batches that may be in flight as things are: 1 while one after another is enough."""
        return self._depth.depth(self._in_flight) if self._in_flight else 1

    def submit(self, request: Request, now_ns: int) -> None:
        """Take a request.

        Raises:
            OverloadedError: Too much is under way, or waits before it.
            DeadlineError: It cannot meet its deadline.
            DuplicateRequestError: One with this id is under way.
            InvalidRequestError: It can never run (see `check_fits`).
        """
        if request.request_id in self._ledger:
            raise DuplicateRequestError(f"request {request.request_id} is under way; use another request_id")
        check_fits(request, self._limits.model, self._batches.blocks)
        check_room(request, len(self._ledger), self._limits, self._batches)
        check_deadline(request, now_ns, self._batches)
        entry = self._ledger.open(request, now_ns)
        match request.work:
            case GenerateWork() as work:
                entry.sequences = samples_of(request, work, entry.opened, entry.charges)
                self._batches.add_samples(entry.sequences)
            case EncodeWork(items=items):
                entry.num_items_left = len(items)
                self._batches.add_items(
                    request.request_id,
                    request.task,
                    items,
                    request.priority,
                    opened=entry.opened,
                    charges=entry.charges,
                )

    def cancel(self, request_id: str, sample: int | None, reason: FinishReason, now_ns: int) -> list[Event]:
        """End a request, or one sample of it, at the next window; unknown ids are ignored (it may just have ended)."""
        entry = self._ledger.find(request_id)
        if entry is None:
            return []
        if reason is FinishReason.CANCELLED and sample is None:
            return self._settlement.break_off(entry, RequestCancelledError("the client cancelled"))
        for sequence in entry.sequences:
            if sample in (None, sequence.sample) and sequence.finish_reason is None:
                self._settlement.end(sequence, reason)
        return self._settlement.close_if_done(entry, now_ns)

    def acknowledge(self, request_id: str, sample: int, num_tokens: int) -> None:
        """Note how many tokens of a sample its client has taken; unknown ones are ignored (it may just have ended)."""
        entry = self._ledger.find(request_id)
        if entry is not None and sample < len(entry.sequences):
            self._batches.read(entry.sequences[sample], num_tokens)

    def check_integrity(self) -> None:
        """Check the accounts of memory; with no work at all nothing may be held.

        Raises:
            LigerError: They are wrong.
        """
        self._batches.memory.check_integrity()
        if self.is_idle and self._batches.blocks.num_used:
            raise LigerError(f"{self._batches.blocks.num_used} KV blocks are held, and no request is under way")

    def expire(self, now_ns: int) -> list[Event]:
        """End the requests whose deadline has passed."""
        error = DeadlineError("the deadline passed before the request was done; allow more time or try again later")
        return [event for entry in self._ledger.expired(now_ns) for event in self._settlement.break_off(entry, error)]

    def fail_all(self, error: LigerError) -> list[Event]:
        """End every request, because the epoch ends."""
        return [event for entry in self._ledger.all() for event in self._settlement.break_off(entry, error)]

    def next_deadline_ns(self) -> int | None:
        """Return the nearest deadline of the requests under way."""
        return self._ledger.next_deadline_ns()

    def next_window(self, now_ns: int) -> tuple[Pattern, Window] | None:
        """Return the next window to publish, with its pattern, or None if enough are published or nothing can run."""
        if len(self._published) >= self._limits.windows_ahead:
            return None
        self._fill(now_ns)
        if not self._in_flight:
            return None
        passed_ns = now_ns - self._begun_ns  # of the oldest window
        backlog_ns = sum(one.plan.cut.predicted_ns for one in self._published) - passed_ns
        in_flight = (
            self._batches.sharing.primary_first(self._in_flight) if self._planner.is_ordered else self._in_flight
        )
        plan = self._planner.plan(
            in_flight,
            backlog_ns=backlog_ns,
            is_idle=not self._published,
            is_pressed=self._batches.has_waiting,
        )
        window = self._window(plan)
        self._advance(plan, window, now_ns)
        return plan.pattern, window

    def commit(self, report: WindowReport, now_ns: int) -> tuple[list[Event], dict[int, Ran]]:
        """Take what the ranks say of the oldest unacknowledged window; return its events, and what ran, by rank."""
        outcome = report.outcome
        published = self._published.popleft()
        self._begun_ns = now_ns
        if published.window.number != outcome.number:
            raise GroupFailedError(f"window {published.window.number} is due, but {outcome.number} was acknowledged")
        slowest = report.slowest
        self._last_window_ns = slowest.ended_ns - slowest.started_ns
        for batch, advance, predicted_ns, taken_ns in published.charge(report.timings):
            self._batches.sharing.acknowledged(batch, self._share(batch, advance), predicted_ns, taken_ns)
        running = {batch.batch_id for batch in published.plan.batches}
        if not running.issuperset(batch.batch_id for batch in outcome.batches):
            raise GroupFailedError(f"window {outcome.number} was acknowledged with results of batches that it has not")
        self._results |= {batch.batch_id: batch for batch in outcome.batches}
        events: list[Event] = []
        for batch in published.ended:
            events += self._settlement.settle(batch, self._results.pop(batch.batch_id, None), now_ns)
        return events, self._observer.acknowledged(outcome.number, report.timings)

    def _fill(self, now_ns: int) -> None:
        while self._free_slots:
            depth = self._depth.depth(self._in_flight, time_left_ns=self._time_left_ns(now_ns))
            absent = self._batches.absent_kinds  # of each kind one may always be in flight, so that none waits long
            is_full = len(self._in_flight) >= depth or len(self._free_slots) <= len(absent)
            kinds = absent if self._in_flight and is_full else tuple(BatchKind)
            batch = self._batches.next_batch(self._free_slots[-1], kinds, is_alone=not self._in_flight)
            if batch is None:
                return
            self._free_slots.pop()
            self._in_flight.append(batch)

    def _time_left_ns(self, now_ns: int) -> float | None:
        """Return the time until the nearest deadline of the oldest batch's requests."""
        if self._ledger.next_deadline_ns() is None:
            return None
        nearest_ns = self._in_flight[0].deadline_ns if self._in_flight else None
        return None if nearest_ns is None else nearest_ns - now_ns

    def _window(self, plan: Plan) -> Window:
        self.num_windows += 1
        fresh = [batch for batch in plan.batches if not batch.is_published]
        beginning = [sequence for batch in fresh for sequence in batch.sequence_starts]
        for sequence in beginning:
            sequence.is_on_ranks = True
        batch_ids = tuple(batch.batch_id for batch in plan.batches)
        return Window(
            fence=self._fence,
            number=self.num_windows,
            pattern_id=plan.pattern.id,
            batch_ids=batch_ids,
            sequence_ends=self._batches.memory.take_freed_rows(),
            sequence_starts=tuple(sequence.start() for sequence in beginning),
            batch_starts=tuple(batch.start for batch in fresh),
            order_digest=order_digest(plan.pattern.id, batch_ids),
            timed=plan.is_timed_cheaply(self._last_window_ns) or self.num_windows % _TIMED_RARELY == 1,
        )

    def _advance(self, plan: Plan, window: Window, now_ns: int) -> None:
        ended, predicted_ns = [], []
        for batch, base, position in zip(plan.batches, plan.bases, plan.positions, strict=True):
            if not batch.is_published:
                self._batches.started(batch)
                self._mark_published(batch, now_ns)
            batch.position, batch.is_published = position, True
            predicted_ns.append(self._batches.sharing.published(batch, self._share(batch, position - base)))
            if position == len(self._planner.forwards[batch.kind]):
                ended.append(batch)
        for batch in ended:
            self._in_flight.remove(batch)
            self._free_slots.append(batch.start.slot)
            self._batches.published(batch)
        if not self._published:
            self._begun_ns = now_ns
        self._published.append(
            Published(window=window, plan=plan, ended=tuple(ended), predicted_ns=tuple(predicted_ns))
        )
        self._observer.published(window.number, plan)

    def _mark_published(self, batch: Batch, now_ns: int) -> None:
        depth = len(self._in_flight)
        for one in batch.charges:
            one.depth = max(one.depth, depth)
            if one.published_ns is None:
                one.published_ns = now_ns

    def _share(self, batch: Batch, num_segments: int) -> float:
        return num_segments / len(self._planner.forwards[batch.kind])
