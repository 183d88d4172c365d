"""A rank without a model: it answers every window at once, with made-up tokens and the times of its profile."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bench.controller.made_up import BLOCK_SIZE, CARD, FORWARDS, duration_ns, made_profile
from liger.digest import launch_digest, order_digest
from liger.domain import BatchKind
from liger.profile import ProfileTable
from liger.schedule import (
    BatchOutcome,
    BatchStart,
    DecodeRows,
    EncodeRows,
    ItemResult,
    Pattern,
    PrefillRows,
    Segment,
    StepSpan,
    Window,
    WindowOutcome,
    WindowTimings,
)
from worker.rank import Joined, JoinPlan, Progress, ReadOutcome

_MOST_KNOWN: Final = 4096


@dataclass(frozen=True, slots=True)
class _Course:
    """What a pattern does to its batches, from where they stand."""

    launched: int  # digest of its launches
    ends: tuple[int, ...]  # by operand: where it stands after
    spans: tuple[tuple[int, int, int], ...]  # step, begin, end, in ns from the window's begin
    busy_ns: tuple[int, ...]  # by operand
    total_ns: int


@dataclass(slots=True)
class _Flight:
    start: BatchStart
    num_tokens: int
    position: int = 0


@dataclass(slots=True)
class SimulatedRank:
    """Follows one epoch's windows; trusts them, since the guard before it checks them."""

    rank: int
    is_reporter: bool
    forwards: Mapping[BatchKind, tuple[Segment, ...]] = field(default_factory=lambda: FORWARDS)
    _in_flight: dict[int, _Flight] = field(default_factory=dict)
    _courses: dict[tuple[int, tuple[tuple[int, int], ...]], _Course] = field(default_factory=dict)
    _now_ns: int = 0

    def run(self, pattern: Pattern, window: Window) -> WindowOutcome:
        """Return what a rank would say of a window."""
        for start in window.batch_starts:
            self._in_flight[start.batch_id] = _Flight(start, _num_tokens(start))
        flights = [self._in_flight[batch_id] for batch_id in window.batch_ids]
        course = self._course(pattern, flights)
        batches = []
        for batch_id, flight, end in zip(window.batch_ids, flights, course.ends, strict=True):
            flight.position = end
            if end == len(self.forwards[flight.start.kind]):
                del self._in_flight[batch_id]
                batches.append(_outcome(flight.start))
        return WindowOutcome(
            fence=window.fence,
            number=window.number,
            launched_digest=order_digest(course.launched, window.batch_ids),
            sampled_digest=0,
            timings=self._timings(course, window),
            batches=tuple(batches) if self.is_reporter else (),
        )

    def _timings(self, course: _Course, window: Window) -> WindowTimings:
        began_ns = self._now_ns
        self._now_ns += course.total_ns
        spans = course.spans if window.timed else ()
        return WindowTimings(
            started_ns=began_ns,
            ended_ns=self._now_ns,
            compute_ns=sum(course.busy_ns),
            communication_ns=course.total_ns // 2,
            exposed_ns=course.total_ns // 10,
            batch_compute_ns=course.busy_ns,
            batch_exposed_ns=(0,) * len(course.busy_ns),
            spans=tuple(
                [StepSpan(window.number, step, began_ns + begin, began_ns + end) for step, begin, end in spans]
            ),
        )

    def _course(self, pattern: Pattern, flights: list[_Flight]) -> _Course:
        key = (pattern.id, tuple((flight.position, flight.num_tokens) for flight in flights))
        course = self._courses.get(key)
        if course is None:
            if len(self._courses) >= _MOST_KNOWN:
                self._courses.clear()
            course = self._courses[key] = self._walk(pattern, flights)
        return course

    def _walk(self, pattern: Pattern, flights: list[_Flight]) -> _Course:
        lanes: dict[int, int] = {}  # when each is free
        ready = [0] * len(flights)  # when each batch may go on
        busy = [0] * len(flights)
        ends = [flight.position for flight in flights]
        spans = []
        for place, step in enumerate(pattern.steps):
            flight, operand = flights[step.operand], step.operand
            segment = self.forwards[flight.start.kind][flight.position + step.segment]
            lasts_ns = duration_ns(segment.kind, flight.num_tokens) // (step.piece.count if step.piece else 1)
            begin = max(lanes.get(step.lane, 0), ready[operand])
            lanes[step.lane] = ready[operand] = begin + lasts_ns
            busy[operand] += lasts_ns
            spans.append((place, begin, begin + lasts_ns))
            ends[operand] = max(ends[operand], flight.position + step.segment + 1)
        return _Course(
            launched=launch_digest(pattern.steps, self.rank),
            ends=tuple(ends),
            spans=tuple(spans),
            busy_ns=tuple(busy),
            total_ns=max(lanes.values()),
        )


def _num_tokens(start: BatchStart) -> int:
    match start.rows:
        case DecodeRows(rows=rows):
            return len(rows)
        case PrefillRows(token_ids=ids) | EncodeRows(token_ids=ids):
            return len(ids)


def _outcome(start: BatchStart) -> BatchOutcome:
    """Return what a batch gives: made-up tokens, never the one that ends an output."""
    match start.rows:
        case DecodeRows(rows=rows):
            num_drawn = len(rows)
        case PrefillRows() as rows:
            forks = zip(rows.samples, rows.forks(), strict=True)
            num_drawn = sum(1 + len(forked) for samples, forked in forks if samples)
        case EncodeRows(num_tokens=counts):
            return BatchOutcome(batch_id=start.batch_id, items=(ItemResult(values=(0.5,)),) * len(counts))
    first = start.batch_id * 7919 % 40_000
    return BatchOutcome(batch_id=start.batch_id, token_ids=tuple(range(first, first + num_drawn)))


class SimulatedEngine:
    """A worker's engine around a simulated rank. Implements `worker.rank.RankEngine`.

    Args:
        num_blocks: KV blocks that it says it has.
    """

    card = CARD
    device = "simulated"
    rendezvous_endpoint = "127.0.0.1:1"
    runs_ahead = False

    def __init__(self, num_blocks: int) -> None:
        self._num_blocks = num_blocks
        self._rank: SimulatedRank | None = None

    def join(self, plan: JoinPlan, progress: Progress) -> Joined:
        """Begin an epoch."""
        progress("nothing to load", 1.0)
        self._rank = SimulatedRank(plan.rank, is_reporter=plan.rank == (plan.pp_size - 1) * plan.tp_size)
        return Joined(forwards=FORWARDS, num_blocks=self._num_blocks, block_size=BLOCK_SIZE, weight_bytes=0, kv_bytes=0)

    def profile(self, progress: Progress, *, fresh: bool) -> ProfileTable:  # noqa: ARG002 - the same every time
        """Return the made-up profile."""
        progress("nothing to measure", 1.0)
        return made_profile()

    def run(self, pattern: Pattern, window: Window) -> ReadOutcome:
        """Answer a window."""
        assert self._rank is not None, "joined before"
        outcome = self._rank.run(pattern, window)
        return lambda: outcome

    def abort(self) -> None:
        """Do nothing: every call ends at once."""

    def leave(self) -> None:
        """Forget the epoch."""
        self._rank = None

    def close(self) -> None:
        """Do nothing."""
