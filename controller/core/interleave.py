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
from controller.core.layout import Job, Layout, Placed, Task, lay_out
from controller.core.plan import Cut, Expected, Forwards, Topology
from liger.digest import pattern_digest
from liger.domain import Axis, Lane, SegmentKind
from liger.schedule import Pattern, Piece, Segment, Step

_LAYER: Final = (SegmentKind.ATTENTION, SegmentKind.ALL_REDUCE, SegmentKind.MLP, SegmentKind.ALL_REDUCE)
_LONE: Final = 3.0  # a batch that is alone in flight goes so many times further in a window
_MAX_LAYERS_CARRIED: Final = 4  # of the primary; what a lane is behind when a window begins is less


@dataclass(frozen=True, slots=True, kw_only=True)
class InterleaveOptions:
    """What a plan may do."""

    slack: float = 0.05  # how much longer the primary may take than alone, as a share
    window_ns: float = 20e6  # a window takes the primary so far, in whole layers
    least_gain: float = 0.02  # a plan that gains less than this over the primary alone is not worth it
    least_piece_tokens: int = 64  # of a decomposed segment
    max_pieces: int = 4


@dataclass(frozen=True, slots=True)
class View:
    """One batch in flight, as the search sees it."""

    shape: Shape
    position: int  # in its forward
    ready: float  # ns until its next segment may begin


@dataclass(frozen=True, slots=True)
class _Part:
    """A task's meaning."""

    offset: int  # segment, from the batch's position
    segment: Segment
    piece: Piece | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    """What a batch may do in a window."""

    view: View
    parts: tuple[_Part, ...]
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

    def cut(self, views: Sequence[View], free: Sequence[float], *, is_lone: bool = False) -> Cut:
        """Return the best window found for batches in flight, oldest first.

        Args:
            views: The batches.
            free: When each lane is free, in ns.
            is_lone: Whether nothing waits to join the one batch; its window is then longer.
        """
        reach_ns = self._options.window_ns * (_LONE if is_lone else 1.0)
        alone = self._window([self._primary(views[0], 1, reach_ns)], free)
        best, most = alone, self._progress(*alone) * (1 + self._options.least_gain)
        for pieces in self._piecings(views):
            found = self._filled(views, pieces, reach_ns, free)
            progress = self._progress(*found)
            if progress > most:
                best, most = found, progress
        return self._to_cut(*best)

    def layer_ns(self, shape: Shape) -> float:
        """Return how long one layer takes alone."""
        return sum(self._costs.duration_ns(shape, kind) for kind in _LAYER)

    def num_ahead(self, shape: Shape, primary: Shape) -> int:
        """Return how many segments ahead of a batch a window may look, where `primary` is the primary's shape."""
        reach_ns = (
            2
            * (1 + self._options.slack)
            * (_LONE * self._options.window_ns + _MAX_LAYERS_CARRIED * self.layer_ns(primary))
        )
        return len(_LAYER) * ceil(reach_ns / self._busiest_ns(shape) + 1)

    def _busiest_ns(self, shape: Shape) -> float:
        """Return how long a layer takes on its busier lane."""
        exchanging = 2 * self._costs.duration_ns(shape, SegmentKind.ALL_REDUCE)
        return max(exchanging, self.layer_ns(shape) - exchanging)

    def _piecings(self, views: Sequence[View]) -> list[tuple[int, ...]]:
        """Return in how many pieces each batch's MLPs may be cut, one choice after another."""
        counts = [max(1, view.shape.num_tokens // self._options.least_piece_tokens) for view in views]
        if len(views) == 1:
            most = min(counts[0], self._options.max_pieces)
            return [(count,) for count in sorted({min(2, most), most}) if count > 1]
        gap = self._exchange_ns(views[0])
        fitting = [
            min(ceil(self._mlp_ns(view) / gap) if gap else 1, count, self._options.max_pieces)
            for view, count in zip(views[1:], counts[1:], strict=True)
        ]
        whole = (1,) * len(views)
        return [whole] if max(fitting) == 1 else [whole, (1, *fitting)]

    def _filled(
        self, views: Sequence[View], pieces: Sequence[int], reach_ns: float, free: Sequence[float]
    ) -> tuple[list[_Run], Layout]:
        """Let the younger batches go as far as they get while the primary runs its part of the window."""
        primary = self._primary(views[0], pieces[0], reach_ns, views[1:])
        horizon_ns = self._alone_ns(primary)
        others = [
            self._younger(view, count, (*views[:place], *views[place + 1 :]), horizon_ns)
            for place, (view, count) in enumerate(zip(views, pieces, strict=True))
            if place > 0
        ]
        draft = self._window([primary, *others], free, width=2)[1]
        kept = [run.keep(_whole_parts(run, draft, place)) for place, run in enumerate(others, 1)]
        return self._window([primary, *kept], free)

    def _window(self, runs: list[_Run], free: Sequence[float], width: int = 6) -> tuple[list[_Run], Layout]:
        jobs = [run.job() for run in runs]
        return runs, lay_out(jobs, num_lanes=len(free), slack=self._options.slack, free=free, width=width)

    def _primary(self, view: View, pieces: int, reach_ns: float, others: Sequence[View] = ()) -> _Run:
        """Return the segments of a window: whole layers, as far as it reaches, or all if hardly more are left."""
        rest = self._forwards[view.shape.kind][view.position :]
        passed_ns, length = 0.0, len(rest)
        for offset, segment in enumerate(rest):
            if passed_ns >= reach_ns and segment.kind is SegmentKind.ATTENTION:
                length = offset
                break
            passed_ns += self._costs.duration_ns(view.shape, segment.kind)
        left_ns = sum(self._costs.duration_ns(view.shape, segment.kind) for segment in rest[length:])
        if left_ns < reach_ns / 2:
            length = len(rest)
        return self._run(view, rest[:length], pieces, others)

    def _younger(self, view: View, pieces: int, others: Sequence[View], horizon_ns: float) -> _Run:
        """Return the segments that could fit a window on the busier lane."""
        rest = self._forwards[view.shape.kind][view.position :]
        passed_ns = dict.fromkeys(Lane, 0.0)
        length = 0
        for segment in rest:
            passed_ns[segment.lane] += self._costs.duration_ns(view.shape, segment.kind)
            length += 1
            if max(passed_ns.values()) > horizon_ns * (1 + self._options.slack):
                break
        return self._run(view, rest[:length], pieces, others)

    def _run(self, view: View, segments: Sequence[Segment], pieces: int, others: Sequence[View]) -> _Run:
        parts: list[_Part] = []
        tasks: list[Task] = []
        beside = others or ((view,) if pieces > 1 else ())
        offset = 0
        while offset < len(segments):
            pair = segments[offset : offset + 2]
            is_pair = [each.kind for each in pair] == [SegmentKind.MLP, SegmentKind.ALL_REDUCE]
            count = pieces if is_pair and pair[0].layer == pair[1].layer else 1
            for index in range(count):
                for place, segment in enumerate(pair if count > 1 else pair[:1]):
                    piece = Piece(axis=Axis.ROWS, index=index, count=count) if count > 1 else None
                    behind = 2 if count > 1 and place == 0 and index > 0 else 1
                    tasks.append(self._task(view, segment, count, max(len(tasks) - behind, -1), beside))
                    parts.append(_Part(offset + place, segment, piece))
            offset += 2 if count > 1 else 1
        return _Run(view, tuple(parts), tuple(tasks))

    def _task(self, view: View, segment: Segment, count: int, after: int, beside: Sequence[View]) -> Task:
        shape = replace(view.shape, num_tokens=ceil(view.shape.num_tokens / count)) if count > 1 else view.shape
        duration = self._costs.duration_ns(shape, segment.kind)
        lane = 2 * segment.stage + (segment.lane is Lane.COMMUNICATION)
        return Task(lane, duration, after, self._contention(shape, segment, beside))

    def _contention(self, shape: Shape, segment: Segment, beside: Sequence[View]) -> float:
        if not beside:
            return 1.0
        tokens = max(view.shape.num_tokens for view in beside)
        if segment.lane is Lane.COMPUTE:
            return self._costs.contention(segment.kind, shape.num_tokens, tokens)[0]
        return self._costs.contention(SegmentKind.MLP, tokens, shape.num_tokens)[1]

    def _progress(self, runs: Sequence[_Run], layout: Layout) -> float:
        """Return the work of a window, as its whole segments take one after another, over the time that it takes."""
        work_ns = sum(self._work_ns(run) for run in runs)
        return work_ns / self._until_next(layout)

    def _work_ns(self, run: _Run) -> float:
        shape, start = run.view.shape, run.view.position
        segments = self._forwards[shape.kind][start : start + run.num_segments]
        return sum(self._costs.duration_ns(shape, segment.kind) for segment in segments)

    def _until_next(self, layout: Layout) -> float:
        """Return when the next window can go on: the primary is done and a compute lane is free."""
        computing = min(layout.free[lane] for lane in range(0, len(layout.free), 2))
        return max(layout.ends[0], computing)

    def _to_cut(self, runs: Sequence[_Run], layout: Layout) -> Cut:
        present = [place for place, run in enumerate(runs) if run.parts]
        order = layout.launch_order()
        kinds = tuple(runs[place].view.shape.kind for place in present)
        steps = tuple(self._step(present.index(one.job), runs[one.job].parts[one.task]) for one in order)
        until = min(layout.free[lane] for lane in range(0, len(layout.free), 2))
        return Cut(
            pattern=Pattern(id=pattern_digest(kinds, steps), operands=kinds, steps=steps),
            operands=tuple(present),
            advances=tuple(runs[place].num_segments for place in present),
            expected=tuple(Expected(one.begin, one.end) for one in order),
            predicted_ns=until,
            ready=tuple(max(layout.ends[place] - until, 0.0) for place in present),
            free=tuple(max(free - until, 0.0) for free in layout.free),
        )

    def _step(self, operand: int, part: _Part) -> Step:
        participants = self._topology.participants(part.segment)
        return Step(
            operand=operand, segment=part.offset, lane=part.segment.lane, piece=part.piece, participants=participants
        )

    def _alone_ns(self, run: _Run) -> float:
        return run.view.ready + self._work_ns(run)

    def _exchange_ns(self, view: View) -> float:
        return self._costs.duration_ns(view.shape, SegmentKind.ALL_REDUCE)

    def _mlp_ns(self, view: View) -> float:
        return self._costs.duration_ns(view.shape, SegmentKind.MLP)


def _whole_parts(run: _Run, draft: Layout, place: int) -> int:
    """Return how many of a younger batch's tasks begin before the primary ends; a decomposed segment is not cut."""
    begins: list[Placed] = [one for one in draft.placed if one.job == place]
    count = sum(one.begin < draft.ends[0] for one in begins)
    while 0 < count < len(run.parts) and _is_inside_pieces(run.parts, count):
        count += 1
    return count


def _is_inside_pieces(parts: Sequence[_Part], count: int) -> bool:
    """Return whether a cut before part `count` would leave a decomposed pair half done."""
    piece = parts[count].piece
    return piece is not None and not (piece.index == 0 and parts[count].segment.lane is Lane.COMPUTE)
