"""Reads the ranks' timings: what ran where, how well it was predicted, how much of the communication was hidden."""

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from controller.core.cost_model import CostModel
from controller.core.plan import Forwards, Plan, lane_span
from liger.domain import BatchKind, Lane, SegmentKind
from liger.schedule import StepSpan, WindowTimings
from liger.spans import LaneSpan
from liger.views import WindowMix

_KEPT_WINDOWS: Final = 64  # that exchanges may still tell of
_LEARN_EVERY: Final = 4  # windows: what changes slowly need not be learnt from all
_RECENT_WINDOWS: Final = 256  # for what is shown


@dataclass(frozen=True, slots=True)
class _Note:
    plan: Plan


class Observer:
    """Follows one epoch.

    Args:
        forwards: What each kind of batch runs.
        costs: Learns from what is seen; None for nothing to learn.
    """

    def __init__(self, forwards: Forwards, costs: CostModel | None) -> None:
        self._forwards = forwards
        self._costs = costs
        self._notes: OrderedDict[int, _Note] = OrderedDict()
        self._lanes: deque[tuple[int, int]] = deque(maxlen=_RECENT_WINDOWS)  # communication, exposed
        self._mixes: deque[tuple[BatchKind, ...]] = deque(maxlen=_RECENT_WINDOWS)  # kinds of batches

    @property
    def prediction_error(self) -> float | None:
        """Median relative error of the predicted durations of the last windows."""
        return self._costs.error if self._costs is not None else None

    def mixes(self) -> tuple[WindowMix, ...]:
        """Return what the last windows were made of, most frequent first."""
        counts = Counter(self._mixes)
        return tuple(
            WindowMix(batches=batches, share=count / len(self._mixes)) for batches, count in counts.most_common()
        )

    @property
    def hidden_share(self) -> float | None:
        """Share of the last windows' communication that no lane waited for; None if there was none."""
        communication = sum(busy for busy, _ in self._lanes)
        exposed = sum(waited for _, waited in self._lanes)
        return max(0.0, 1.0 - exposed / communication) if communication else None

    def published(self, number: int, plan: Plan) -> None:
        """Remember what a window's steps are."""
        self._mixes.append(tuple(sorted(batch.kind for batch in plan.batches)))
        self._notes[number] = _Note(plan)
        if len(self._notes) > _KEPT_WINDOWS:
            self._notes.popitem(last=False)

    def acknowledged(self, number: int, timings: Sequence[WindowTimings]) -> dict[int, list[LaneSpan]]:
        """Learn from the timings of a window, by rank; return what ran, by rank."""
        slowest = max(timings, key=lambda each: each.ended_ns - each.started_ns)
        self._lanes.append((slowest.communication_ns, slowest.exposed_ns))
        note = self._notes.get(number)
        if self._costs is not None and note is not None:
            self._costs.observe_window(note.plan.cut.predicted_ns, slowest.ended_ns - slowest.started_ns)
        spans = {rank: self._read(rank, each.spans) for rank, each in enumerate(timings)}
        if self._costs is not None:
            self._costs.renew()
        return spans

    def _read(self, rank: int, spans: Sequence[StepSpan]) -> list[LaneSpan]:
        read = []
        for span in spans:
            note = self._notes.get(span.window)
            if note is not None and span.step < len(note.plan.pattern.steps):
                read.append(self._label(rank, span, note))
        return read

    def _label(self, rank: int, span: StepSpan, note: _Note) -> LaneSpan:
        plan = note.plan
        step = plan.pattern.steps[span.step]
        batch = plan.batches[step.operand]
        segment = self._forwards[batch.kind][plan.bases[step.operand] + step.segment]
        self._learn(note, span, batch.kind, segment.kind, segment.lane)
        return lane_span(batch, segment, step, span, rank=rank)

    def _learn(self, note: _Note, span: StepSpan, kind: BatchKind, segment: SegmentKind, lane: Lane) -> None:
        if self._costs is None or not note.plan.cut.expected or note.plan.cut.version != self._costs.version:
            return
        if span.window % _LEARN_EVERY != 1:
            return
        if lane is Lane.COMMUNICATION and segment is not SegmentKind.ALL_REDUCE:
            return  # others are too short to tell
        expected = note.plan.cut.expected[span.step]
        self._costs.observe(kind, segment, expected.end_ns - expected.begin_ns, span.end_ns - span.begin_ns)
