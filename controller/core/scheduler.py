"""One group's epoch: requests in, windows out, outcomes in, events out."""

from collections import deque
from dataclasses import dataclass

from controller.core.admission import ModelLimits, check_fits
from controller.core.batch import Batch
from controller.core.batch_manager import BatchManager
from controller.core.events import Event, OutputMade, RequestBroken, RequestEnded, TokensMade
from controller.core.ledger import Entry, Ledger
from controller.core.planner import Plan, Planner
from controller.core.requests import EncodeWork, GenerateWork, Request
from controller.core.sequence import Sequence, SequenceState
from liger.digest import order_digest
from liger.domain import Fence, FinishReason
from liger.errors import (
    DeadlineError,
    DuplicateRequestError,
    GroupFailedError,
    LigerError,
    OverloadedError,
    RequestCancelledError,
)
from liger.schedule import BatchOutcome, Logprob, Pattern, Window, WindowOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """Bounds of one group."""

    depth: int  # batches in flight
    windows_ahead: int  # windows published and not acknowledged, at most
    max_requests: int  # requests under way, at most
    model: ModelLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    window: Window
    ended: tuple[Batch, ...]  # batches whose last segment is in the window
    touched: tuple[Batch, ...]  # batches with any segment in it


class Scheduler:
    """Decides what the ranks of one group do next, and what their results mean.

    Args:
        fence: Goes on every window.
        limits: Bounds.
        planner: Lays batches on lanes.
        batches: Forms batches.
    """

    def __init__(self, *, fence: Fence, limits: SchedulerLimits, planner: Planner, batches: BatchManager) -> None:
        self._fence = fence
        self._limits = limits
        self._planner = planner
        self._batches = batches
        self._ledger = Ledger()
        self._in_flight: list[Batch] = []  # oldest first; segments are left to publish
        self._published: deque[_Published] = deque()
        self._free_slots = list(range(limits.depth - 1, -1, -1))
        self.num_windows = 0

    @property
    def num_requests(self) -> int:
        """Requests under way."""
        return len(self._ledger)

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way and no window is unacknowledged."""
        return not self._ledger and not self._published

    def submit(self, request: Request, now_ns: int) -> None:
        """Take a request.

        Raises:
            OverloadedError: Too many requests are under way.
            DuplicateRequestError: One with this id is under way.
            InvalidRequestError: It can never run (see `check_fits`).
        """
        if request.request_id in self._ledger:
            raise DuplicateRequestError(f"request {request.request_id} is under way; use another request_id")
        if len(self._ledger) >= self._limits.max_requests:
            raise OverloadedError(f"{self._limits.max_requests} requests are under way; try again", retry_after_s=1.0)
        check_fits(request, self._limits.model, self._batches.blocks)
        entry = self._ledger.open(request, now_ns)
        match request.work:
            case GenerateWork() as work:
                for sample, sampling in enumerate(work.samplings):
                    sequence = Sequence(request_id=request.request_id, sample=sample, work=work, sampling=sampling)
                    entry.sequences.append(sequence)
                    self._batches.add_sequence(sequence, request.priority)
            case EncodeWork(items=items):
                entry.num_items_left = len(items)
                self._batches.add_items(request.request_id, items, request.priority)

    def cancel(self, request_id: str, sample: int | None, reason: FinishReason, now_ns: int) -> list[Event]:
        """End a request, or one sample of it, at the next window; unknown ids are ignored (it may just have ended)."""
        entry = self._ledger.find(request_id)
        if entry is None:
            return []
        if reason is FinishReason.CANCELLED and sample is None:
            return self._break(entry, RequestCancelledError("the client cancelled"))
        for sequence in entry.sequences:
            if sample in (None, sequence.sample) and sequence.finish_reason is None:
                self._end(sequence, reason)
        return self._close_if_done(entry, now_ns)

    def expire(self, now_ns: int) -> list[Event]:
        """End the requests whose deadline has passed."""
        error = DeadlineError("the deadline passed before the request was done; allow more time or try again later")
        return [event for entry in self._ledger.expired(now_ns) for event in self._break(entry, error)]

    def fail_all(self, error: LigerError) -> list[Event]:
        """End every request, because the epoch ends."""
        return [event for entry in self._ledger.all() for event in self._break(entry, error)]

    def next_deadline_ns(self) -> int | None:
        """Return the nearest deadline of the requests under way."""
        return self._ledger.next_deadline_ns()

    def next_window(self, now_ns: int) -> tuple[Pattern, Window] | None:
        """Return the next window to publish, with its pattern, or None if enough are published or nothing can run."""
        if len(self._published) >= self._limits.windows_ahead:
            return None
        self._fill()
        if not self._in_flight:
            return None
        plan = self._planner.plan(self._in_flight)
        window = self._window(plan)
        self._advance(plan, window, now_ns)
        return plan.pattern, window

    def commit(self, outcome: WindowOutcome, now_ns: int) -> list[Event]:
        """Take the outcome of the oldest unacknowledged window: rank 0's results with the slowest rank's timings."""
        published = self._published.popleft()
        if published.window.number != outcome.number:
            raise GroupFailedError(f"window {published.window.number} is due, but {outcome.number} was acknowledged")
        self._charge(published.touched, outcome)
        results = {batch.batch_id: batch for batch in outcome.batches}
        events: list[Event] = []
        for batch in published.ended:
            events += self._commit_batch(batch, results.get(batch.batch_id), now_ns)
        return events

    def _fill(self) -> None:
        while len(self._in_flight) < self._limits.depth:
            batch = self._batches.next_batch(self._free_slots[-1])
            if batch is None:
                return
            self._free_slots.pop()
            self._in_flight.append(batch)

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
            sequence_ends=self._batches.take_freed_rows(),
            sequence_starts=tuple(sequence.start() for sequence in beginning),
            batch_starts=tuple(batch.start for batch in fresh),
            order_digest=order_digest(plan.pattern.steps, batch_ids),
        )

    def _advance(self, plan: Plan, window: Window, now_ns: int) -> None:
        ended = []
        for batch, position in zip(plan.batches, plan.positions, strict=True):
            batch.position, batch.is_published = position, True
            self._mark_published(batch, now_ns)
            if position == len(self._planner.forwards[batch.kind]):
                ended.append(batch)
                self._in_flight.remove(batch)
                self._free_slots.append(batch.start.slot)
                for sequence in batch.sequences:
                    sequence.in_batch = False
        self._published.append(_Published(window=window, ended=tuple(ended), touched=plan.batches))

    def _mark_published(self, batch: Batch, now_ns: int) -> None:
        for request_id in batch.request_ids:
            entry = self._ledger.find(request_id)
            if entry is not None:
                entry.depth = max(entry.depth, len(self._in_flight))
                entry.published_ns = now_ns if entry.published_ns is None else entry.published_ns

    def _charge(self, batches: tuple[Batch, ...], outcome: WindowOutcome) -> None:
        for request_id in {request_id for batch in batches for request_id in batch.request_ids}:
            entry = self._ledger.find(request_id)
            if entry is not None:
                entry.compute_ns += outcome.timings.compute_ns
                entry.exposed_ns += outcome.timings.exposed_ns

    def _commit_batch(self, batch: Batch, result: BatchOutcome | None, now_ns: int) -> list[Event]:
        if result is None:
            raise GroupFailedError(f"rank 0 acknowledged batch {batch.batch_id} without its results")
        if batch.entries:
            return self._commit_items(batch, result, now_ns)
        drawing = [sequence for sequence, draws in zip(batch.sequences, _draws(batch), strict=True) if draws]
        if len(drawing) != len(result.token_ids):
            raise GroupFailedError(f"batch {batch.batch_id} draws {len(drawing)} tokens, {len(result.token_ids)} came")
        asking = sum(sequence.sampling.logprobs is not None for sequence in drawing)
        if asking != len(result.logprobs):
            raise GroupFailedError(f"batch {batch.batch_id} gives {asking} likelihoods, {len(result.logprobs)} came")
        logprobs = iter(result.logprobs)
        events: list[Event] = []
        for sequence in batch.sequences:
            sequence.num_unacknowledged -= 1
        for sequence, token_id in zip(drawing, result.token_ids, strict=True):
            wanted = (next(logprobs),) if sequence.sampling.logprobs is not None else ()
            events += self._take(sequence, token_id, wanted, now_ns)
        for sequence in batch.sequences:
            self._release_if_over(sequence)
        return events

    def _take(self, sequence: Sequence, token_id: int, logprobs: tuple[Logprob, ...], now_ns: int) -> list[Event]:
        entry = self._ledger.find(sequence.request_id)
        if entry is None or sequence.finish_reason is not None:
            return []  # a late token: computed before its sequence's end was known
        sequence.take(token_id)
        entry.num_given += 1
        entry.first_ns = now_ns if entry.first_ns is None else entry.first_ns
        made = TokensMade(
            request_id=sequence.request_id,
            sample=sequence.sample,
            offset=len(sequence.output) - 1,
            token_ids=(token_id,),
            logprobs=logprobs,
            finish_reason=sequence.finish_reason,
        )
        return [made, *self._close_if_done(entry, now_ns)]

    def _commit_items(self, batch: Batch, result: BatchOutcome, now_ns: int) -> list[Event]:
        if len(batch.entries) != len(result.items):
            raise GroupFailedError(
                f"batch {batch.batch_id} has {len(batch.entries)} inputs, {len(result.items)} came back"
            )
        events: list[Event] = []
        for part, item in zip(batch.entries, result.items, strict=True):
            entry = self._ledger.find(part.request_id)
            if entry is None:
                continue
            entry.num_items_left -= 1
            entry.first_ns = now_ns if entry.num_items_left == 0 else None
            events.append(OutputMade(request_id=part.request_id, item=part.item, result=item))
            events += self._close_if_done(entry, now_ns)
        return events

    def _close_if_done(self, entry: Entry, now_ns: int) -> list[Event]:
        if not entry.is_done:
            return []
        self._ledger.close(entry.request.request_id)
        return [RequestEnded(request_id=entry.request.request_id, account=entry.account(now_ns))]

    def _break(self, entry: Entry, error: LigerError) -> list[Event]:
        self._batches.drop_items(entry.request.request_id)
        for sequence in entry.sequences:
            if sequence.finish_reason is None:
                self._end(sequence, FinishReason.CANCELLED)
        self._ledger.close(entry.request.request_id)
        return [RequestBroken(request_id=entry.request.request_id, error=error)]

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.end(reason)
        self._release_if_over(sequence)

    def _release_if_over(self, sequence: Sequence) -> None:
        if sequence.state is SequenceState.ENDED and sequence.num_unacknowledged == 0:
            self._batches.release(sequence)


def _draws(batch: Batch) -> tuple[bool, ...]:
    samples: tuple[bool, ...] = getattr(batch.start.rows, "samples", (True,) * len(batch.sequences))
    return samples
