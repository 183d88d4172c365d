"""Finds the order of one window: which segments of which batches, whole or in pieces, and when.

The oldest batch in flight is primary: it goes some layers further and is hardly delayed. Younger ones fill the gaps
that its communication leaves on the compute lane, and those that its compute leaves on the communication lane. What is
too long for a gap is decomposed (MLP by tokens, all-reduce by rows) when the pieces pay for their own cost. The
principles are Liger's (PPoPP 2024, section 3); unlike it there are no rounds with a barrier, a gap may take several
segments, and contention is measured for each pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from controller.core.cost_model import CostModel, Shape
from controller.core.layout import WIDTH, Job, Layout, Placed, Task, lay_out
from controller.core.pieces import WHOLE, Part, Pieces, cut, may_end_before
from controller.core.plan import Cut, Expected, Forwards, Topology
from controller.core.situation import LEAST_MIXED_NS, LONE_REACH, MIXED_SHARE, InterleaveOptions, Situation, View
from liger.digest import pattern_digest
from liger.domain import BatchKind, Lane, SegmentKind
from liger.schedule import Pattern, Segment, Step

_LAYER: Final = (SegmentKind.ATTENTION, SegmentKind.ALL_REDUCE, SegmentKind.MLP, SegmentKind.ALL_REDUCE)
_MAX_LAYERS_CARRIED: Final = 4  # of the primary; what a lane is behind when a window begins is less


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Of one window."""

    slack: float
    reach_ns: float  # how far the primary goes


@dataclass(frozen=True, slots=True)
class _Run:
    """What a batch may do in a window."""

    view: View
    parts: tuple[Part, ...]
    tasks: tuple[Task, ...]

    def job(self) -> Job:
        return Job(self.tasks, self.view.ready)

    def keep(self, count: int) -> "_Run":
        return replace(self, parts=self.parts[:count], tasks=self.tasks[:count])

    @property
    def num_segments(self) -> int:
        return self.parts[-1].offset + 1 if self.parts else 0


class Interleaver:
    """Searches windows for one group.

    Args:
        forwards: What each kind of batch runs.
        topology: How the ranks are laid out.
        costs: Predicts durations.
        options: Bounds.
    """

    def __init__(self, forwards: Forwards, topology: Topology, costs: CostModel, options: InterleaveOptions) -> None:
        self._forwards = forwards
        self._topology = topology
        self._costs = costs
        self._options = options

    def cut(self, views: Sequence[View], free: Sequence[float], situation: Situation = Situation.USUAL) -> Cut:
        """Return the best window found for batches in flight, oldest first.

        Args:
            views: The batches.
            free: When each lane is free, in ns.
            situation: What the window is planned for.
        """
        bounds = self._bounds(views, situation)
        alone = self._window([self._primary(views[0], WHOLE, bounds)], free, bounds)
        best, most = alone, self._progress(*alone)
        for pieces in self._piecings(views):
            found = self._filled(views, pieces, bounds, free)
            progress = self._progress(*found)
            if progress > most * (1 + (self._options.least_gain if len(views) > 1 else self._options.least_lone_gain)):
                best, most = found, progress
        return self._to_cut(*best)

    def quick_cut(self, views: Sequence[View], free: Sequence[float], situation: Situation = Situation.USUAL) -> Cut:
        """Return a window at a small part of the cost of `cut`: whole segments, each as soon as it may run."""
        bounds = self._bounds(views, situation)
        alone = self._window([self._primary(views[0], WHOLE, bounds)], free, bounds, width=1)
        found = self._filled(views, (WHOLE,) * len(views), bounds, free, width=1)
        gains = self._progress(*found) > self._progress(*alone) * (1 + self._options.least_gain)
        return self._to_cut(*(found if gains else alone))

    def _bounds(self, views: Sequence[View], situation: Situation) -> _Bounds:
        options = self._options
        slack = max(options.slack, options.pressed_slack) if situation is Situation.PRESSED else options.slack
        reach_ns = options.window_ns
        steps = situation is Situation.MIXED and views[0].shape.kind is BatchKind.DECODE
        if steps:
            slack = max(options.slack, options.mixed_slack)
        if situation is Situation.LONE or steps:
            reach_ns *= LONE_REACH
        elif situation is Situation.MIXED:
            steps_ns = [self._forward_ns(view.shape) for view in views if view.shape.kind is BatchKind.DECODE]
            share_ns = MIXED_SHARE * min(steps_ns, default=reach_ns / MIXED_SHARE)
            reach_ns = max(min(share_ns, LONE_REACH * reach_ns), LEAST_MIXED_NS)
        return _Bounds(slack, reach_ns)

    def _forward_ns(self, shape: Shape) -> float:
        return sum(self._costs.duration_ns(shape, segment.kind) for segment in self._forwards[shape.kind])

    def layer_ns(self, shape: Shape) -> float:
        """Return how long one layer takes alone."""
        return sum(self._costs.duration_ns(shape, kind) for kind in _LAYER)

    def num_ahead(self, shape: Shape, primary: Shape) -> int:
        """Return how many segments ahead of a batch a window may look, where `primary` is the primary's shape."""
        reach_ns = (
            2
            * (1 + max(self._options.slack, self._options.pressed_slack, self._options.mixed_slack))
            * (LONE_REACH * self._options.window_ns + _MAX_LAYERS_CARRIED * self.layer_ns(primary))
        )
        return len(_LAYER) * ceil(reach_ns / self._busiest_ns(shape) + 1)

    def _busiest_ns(self, shape: Shape) -> float:
        """Return how long a layer takes on its busier lane."""
        exchanging = 2 * self._costs.duration_ns(shape, SegmentKind.ALL_REDUCE)
        return max(exchanging, self.layer_ns(shape) - exchanging)

    def _piecings(self, views: Sequence[View]) -> list[tuple[Pieces, ...]]:
        """Return in how many pieces batches may be cut, one choice after another.

        Those of younger ones fit the time for which the primary leaves a lane: their MLPs under its exchange, or their
        exchanges under its MLP or its attention.
        """
        primary, younger = views[0], views[1:]
        if not younger:
            is_large = primary.shape.num_tokens >= self._options.least_lone_tokens
            most = self._fitting(primary, SegmentKind.MLP, 0.0) if is_large else 1
            return [(Pieces(mlp=count),) for count in sorted({min(2, most), most}) if count > 1]
        choices = [(WHOLE,) * len(views)]
        gap_ns = self._costs.duration_ns(primary.shape, SegmentKind.ALL_REDUCE)
        choices.append((WHOLE, *(Pieces(mlp=self._fitting(view, SegmentKind.MLP, gap_ns)) for view in younger)))
        for kind in (SegmentKind.MLP, SegmentKind.ATTENTION):
            gap_ns = self._costs.duration_ns(primary.shape, kind)
            counts = [self._fitting(view, SegmentKind.ALL_REDUCE, gap_ns) for view in younger]
            choices.append((WHOLE, *(Pieces(exchange=count) for count in counts)))
        return list(dict.fromkeys(choices))

    def _fitting(self, view: View, kind: SegmentKind, gap_ns: float) -> int:
        """Return in how many pieces a segment fits a gap; no more than may be."""
        least_tokens = self._options.least_piece_tokens
        if kind is SegmentKind.ALL_REDUCE:
            least_tokens = self._options.least_exchanged_tokens
        most = max(1, min(self._options.max_pieces, view.shape.num_tokens // least_tokens))
        duration_ns = self._costs.duration_ns(view.shape, kind)
        return ceil(duration_ns / gap_ns) if duration_ns < most * gap_ns else most

    def _filled(
        self,
        views: Sequence[View],
        pieces: Sequence[Pieces],
        bounds: _Bounds,
        free: Sequence[float],
        width: int = WIDTH,
    ) -> tuple[list[_Run], Layout]:
        """Let the younger batches go as far as they get while the primary runs its part of the window."""
        primary = self._primary(views[0], pieces[0], bounds, views[1:])
        horizon_ns = primary.view.ready + self._work_ns(primary)
        others = [
            self._younger(view, count, (*views[:place], *views[place + 1 :]), bounds, horizon_ns)
            for place, (view, count) in enumerate(zip(views, pieces, strict=True))
            if place > 0
        ]
        draft = self._window([primary, *others], free, bounds, width=1)[1]
        kept = [run.keep(_whole_parts(run, draft, place)) for place, run in enumerate(others, 1)]
        chosen = _started_in_turn(kept)
        if width == 1 and chosen == others:
            return [primary, *others], draft
        return self._window([primary, *chosen], free, bounds, width)

    def _window(
        self, runs: list[_Run], free: Sequence[float], bounds: _Bounds, width: int = WIDTH
    ) -> tuple[list[_Run], Layout]:
        jobs = [run.job() for run in runs]
        return runs, lay_out(jobs, num_lanes=len(free), slack=bounds.slack, free=free, width=width)

    def _primary(self, view: View, pieces: Pieces, bounds: _Bounds, others: Sequence[View] = ()) -> _Run:
        """Return the segments of a window: whole layers, as far as it reaches, or all if hardly more are left."""
        rest = self._forwards[view.shape.kind][view.position :]
        passed_ns, length = 0.0, len(rest)
        for offset, segment in enumerate(rest):
            if passed_ns >= bounds.reach_ns and segment.kind is SegmentKind.ATTENTION:
                length = offset
                break
            passed_ns += self._costs.duration_ns(view.shape, segment.kind)
        left_ns = sum(self._costs.duration_ns(view.shape, segment.kind) for segment in rest[length:])
        if left_ns < bounds.reach_ns / 2:
            length = len(rest)
        return self._run(view, rest[:length], pieces, others)

    def _younger(self, view: View, pieces: Pieces, others: Sequence[View], bounds: _Bounds, horizon_ns: float) -> _Run:
        """Return the segments that could fit a window on the busier lane."""
        rest = self._forwards[view.shape.kind][view.position :]
        passed_ns = dict.fromkeys(Lane, 0.0)
        length = 0
        for segment in rest:
            passed_ns[segment.lane] += self._costs.duration_ns(view.shape, segment.kind)
            length += 1
            if max(passed_ns.values()) > horizon_ns * (1 + bounds.slack):
                break
        return self._run(view, rest[:length], pieces, others)

    def _run(self, view: View, segments: Sequence[Segment], pieces: Pieces, others: Sequence[View]) -> _Run:
        beside = others or ((view,) if pieces != WHOLE else ())
        parts = cut(segments, pieces)
        return _Run(view, parts, tuple(self._task(view, part, beside) for part in parts))

    def _task(self, view: View, part: Part, beside: Sequence[View]) -> Task:
        shape, segment = view.shape, part.segment
        if part.count > 1:
            shape = replace(shape, num_tokens=ceil(shape.num_tokens / part.count))
        duration = self._costs.duration_ns(shape, segment.kind)
        lane = 2 * segment.stage + (segment.lane is Lane.COMMUNICATION)
        held = self._costs.held_share(shape, segment.kind)
        return Task(lane, duration, part.after, self._contention(shape, segment, beside), held)

    def _contention(self, shape: Shape, segment: Segment, beside: Sequence[View]) -> float:
        if not beside:
            return 1.0
        tokens = max(view.shape.num_tokens for view in beside)
        if segment.lane is Lane.COMPUTE:
            return self._costs.contention(segment.kind, shape.num_tokens, tokens)[0]
        return self._costs.contention(SegmentKind.MLP, tokens, shape.num_tokens)[1]

    def _progress(self, runs: Sequence[_Run], layout: Layout) -> float:
        """Return the work of a window, as whole segments, over its time; what is under way then counts in part."""
        computing = min(layout.free[lane] for lane in range(0, len(layout.free), 2))
        until = max(layout.ends[0], computing)  # the primary is done and a compute lane is free
        work_ns = 0.0
        for one in layout.placed:
            run = runs[one.job]
            part = run.parts[one.task]
            share = (until - one.begin) / (one.end - one.begin) if one.end > until else 1.0
            work_ns += max(share, 0.0) * self._costs.duration_ns(run.view.shape, part.segment.kind) / part.count
        return work_ns / until

    def _work_ns(self, run: _Run) -> float:
        shape, start = run.view.shape, run.view.position
        segments = self._forwards[shape.kind][start : start + run.num_segments]
        return sum(self._costs.duration_ns(shape, segment.kind) for segment in segments)

    def _to_cut(self, runs: Sequence[_Run], layout: Layout) -> Cut:
        present = [place for place, run in enumerate(runs) if run.parts]
        order = layout.launch_order()
        kinds = tuple(runs[place].view.shape.kind for place in present)
        steps = tuple(self._step(present.index(one.job), runs[one.job].parts[one.task]) for one in order)
        computing = {one.lane for one in layout.placed if one.lane % 2 == 0} or range(0, len(layout.free), 2)
        until = min(layout.free[lane] for lane in computing)
        return Cut(
            pattern=Pattern(id=pattern_digest(kinds, steps), operands=kinds, steps=steps),
            operands=tuple(present),
            advances=tuple(runs[place].num_segments for place in present),
            expected=tuple(Expected(one.begin, one.end) for one in order),
            predicted_ns=until,
            ready=tuple(max(layout.ends[place] - until, 0.0) for place in present),
            free=tuple(max(free - until, 0.0) for free in layout.free),
        )

    def _step(self, operand: int, part: Part) -> Step:
        participants = self._topology.participants(part.segment)
        return Step(
            operand=operand, segment=part.offset, lane=part.segment.lane, piece=part.piece, participants=participants
        )


def _started_in_turn(younger: Sequence[_Run]) -> list[_Run]:
    """Return runs in which no batch starts while an older one has not: ranks take batches in the order of their ids."""
    waiting = next((place for place, run in enumerate(younger) if not run.view.position and not run.parts), None)
    return [
        run.keep(0) if waiting is not None and place > waiting and not run.view.position else run
        for place, run in enumerate(younger)
    ]


def _whole_parts(run: _Run, draft: Layout, place: int) -> int:
    """Return how many of a younger batch's tasks begin before the primary ends; a decomposed segment is not cut."""
    begins: list[Placed] = [one for one in draft.placed if one.job == place]
    count = sum(one.begin < draft.ends[0] for one in begins)
    while 0 < count < len(run.parts) and not may_end_before(run.parts, count):
        count += 1
    return count
