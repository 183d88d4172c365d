"""Steady streams of batches, laid in windows by the product's planner: the same on every rank. Pure.

A track is what follows itself: encode batches of one slot, the steps of sequences that decode, the chunks of a prompt.
Each has at most one batch in flight, as a batch needs what the one before it gave.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from controller.core.batch import Batch
from controller.core.cost_model import CostModel, Shape
from controller.core.pace import Pace
from controller.core.plan import Forwards, Plan
from controller.core.planner import Planner
from controller.core.sharing import Sharing
from liger.digest import order_digest
from liger.domain import BatchKind, Fence, Task
from liger.schedule import BatchRows, BatchStart, Pattern, SequenceStart, Window

_UNHURRIED_NS: Final = 1e15  # a backlog in which every search fits: flows are laid before they are timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Batches that follow one another.

    With `beside` and `every`, the n-th begins only when `every` × n of that track have begun.
    """

    name: str
    kind: BatchKind
    rows: Callable[[int], BatchRows]  # of the n-th batch of a flow
    num_tokens: int
    beside: str = ""
    every: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """One window of a flow."""

    pattern: Pattern
    window: Window
    work: float  # batches' worth of predicted time that lies in it
    is_full: bool  # whether all tracks that may be in flight are
    begun: tuple[str, ...]  # tracks of which a batch began
    ended: tuple[str, ...]  # tracks of which a batch ended


class Flow:
    """Lays flows for one group; window and batch numbers go on from flow to flow.

    Args:
        planner: The product's.
        costs: Tell how much of a batch lies in a window.
        depth: Batches in flight at most.
        fence: Goes on every window.
    """

    def __init__(self, planner: Planner, costs: CostModel, *, depth: int, fence: Fence) -> None:
        self._planner = planner
        self._costs = costs
        self._depth = depth
        self._fence = fence
        self.num_windows = 0
        self.num_batches = 0

    def lay(
        self,
        tracks: Sequence[Track],
        num_batches: int,
        *,
        begin: Sequence[SequenceStart] = (),
        end: Sequence[int] = (),
    ) -> list[Laid]:
        """Return the windows of so many batches, to their ends.

        Args:
            tracks: Each has a slot; they begin batches in turn.
            num_batches: Of all tracks that are beside no other.
            begin: Sequences that begin with the first window.
            end: Rows that end with the first window, before others begin.
        """
        run = _Run(tracks, num_batches, self._depth)
        laid: list[Laid] = []
        while in_flight := self._fill(run):
            is_full = len(in_flight) == min(self._depth, len(tracks)) and run.num_left > 0
            plan = self._planner.plan(in_flight, backlog_ns=_UNHURRIED_NS, is_idle=not laid, is_pressed=is_full)
            laid.append(self._advance(run, plan, begin if not laid else (), end if not laid else (), is_full=is_full))
        return laid

    def _fill(self, run: "_Run") -> list[Batch]:
        """Begin what may, in turn, and return the batches in flight as the planner takes them."""
        while (place := run.next_place()) is not None:
            self.num_batches += 1
            track, number = run.tracks[place], run.begin(place)
            start = BatchStart(batch_id=self.num_batches, kind=track.kind, slot=place, rows=track.rows(number))
            run.start(place, Batch(start=start, num_tokens=track.num_tokens))
        return run.ordered(by_share=self._planner.is_ordered)

    def _advance(
        self, run: "_Run", plan: Plan, begin: Sequence[SequenceStart], end: Sequence[int], *, is_full: bool
    ) -> Laid:
        self.num_windows += 1
        fresh = [batch for batch in plan.batches if not batch.is_published]
        batch_ids = tuple(batch.batch_id for batch in plan.batches)
        shares = [self._share(plan, operand) for operand in range(len(batch_ids))]
        for batch, position, share in zip(plan.batches, plan.positions, shares, strict=True):
            batch.position, batch.is_published = position, True
            run.charge(batch, share, self.alone_ns(batch.shape))
        window = Window(
            fence=self._fence,
            number=self.num_windows,
            pattern_id=plan.pattern.id,
            batch_ids=batch_ids,
            sequence_ends=tuple(end),
            sequence_starts=tuple(begin),
            batch_starts=tuple(batch.start for batch in fresh),
            order_digest=order_digest(plan.pattern.id, batch_ids),
        )
        return Laid(
            pattern=plan.pattern,
            window=window,
            work=sum(shares),
            is_full=is_full,
            begun=tuple(run.tracks[batch.start.slot].name for batch in fresh),
            ended=run.end(self._planner.forwards),
        )

    def _share(self, plan: Plan, operand: int) -> float:
        """Return how much of a batch a window takes, by predicted times."""
        shape, base = plan.batches[operand].shape, plan.bases[operand]
        forward = self._planner.forwards[shape.kind]
        total = sum(self._costs.duration_ns(shape, segment.kind) for segment in forward)
        taken = sum(
            self._costs.duration_ns(shape, forward[base + step.segment].kind) / (step.piece.count if step.piece else 1)
            for step in plan.pattern.steps
            if step.operand == operand
        )
        return taken / total

    def alone_ns(self, shape: Shape) -> float:
        """Return how long a batch takes by itself, as predicted."""
        return sum(self._costs.duration_ns(shape, one.kind) for one in self._planner.forwards[shape.kind])


class _Run:
    """One flow under way."""

    def __init__(self, tracks: Sequence[Track], num_batches: int, depth: int) -> None:
        self.tracks = tracks
        self.in_flight: dict[int, Batch] = {}  # by track
        self._num_batches = num_batches
        self._depth = depth
        self._begun = [0] * len(tracks)
        self._turn = 0
        self._sharing = Sharing(dict.fromkeys(Task, 1.0), Pace())
        kinds = {track.kind for track in tracks} & {BatchKind.PREFILL, BatchKind.DECODE}
        self._sharing.wake({Task.GENERATE}, kinds)

    @property
    def num_left(self) -> int:
        """Batches that are still to begin, of tracks that are beside no other."""
        begun = sum(count for track, count in zip(self.tracks, self._begun, strict=True) if not track.beside)
        return self._num_batches - begun

    def next_place(self) -> int | None:
        """Return the track whose batch begins next, if any may."""
        if len(self.in_flight) >= self._depth:
            return None
        places = [(self._turn + offset) % len(self.tracks) for offset in range(len(self.tracks))]
        return next((place for place in places if place not in self.in_flight and self._may_begin(place)), None)

    def begin(self, place: int) -> int:
        """Count a batch that begins; return its number on its track."""
        self._begun[place] += 1
        self._turn = (place + 1) % len(self.tracks)
        return self._begun[place] - 1

    def start(self, place: int, batch: Batch) -> None:
        """Take a batch in flight."""
        self.in_flight[place] = batch
        self._sharing.formed(batch)

    def ordered(self, *, by_share: bool) -> list[Batch]:
        """Return the batches in flight, oldest first, or as the controller orders them: prefill and decode share time.

        The product's own sharing decides; it is told predicted times, so that all ranks order alike.
        """
        oldest_first = sorted(self.in_flight.values(), key=lambda one: one.batch_id)
        return self._sharing.primary_first(oldest_first) if by_share else oldest_first

    def charge(self, batch: Batch, share: float, alone_ns: float) -> None:
        """Count what a window takes of a batch, by predicted times."""
        self._sharing.acknowledged(batch, share, self._sharing.published(batch, share), share * alone_ns)

    def end(self, forwards: Forwards) -> tuple[str, ...]:
        """Let go of batches that are over; return their tracks."""
        over = [place for place, batch in self.in_flight.items() if batch.position == len(forwards[batch.kind])]
        for place in over:
            del self.in_flight[place]
        return tuple(self.tracks[place].name for place in over)

    def _may_begin(self, place: int) -> bool:
        if self.num_left <= 0:
            return False
        track = self.tracks[place]
        if not track.beside:
            return True
        others = sum(count for other, count in zip(self.tracks, self._begun, strict=True) if other.name == track.beside)
        return others >= track.every * (self._begun[place] + 1)
