"""Reads the ranks' timings: what ran where, how well it was predicted, how much of the communication was hidden."""

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from operator import ge
from typing import Final, overload

from controller.core.cost_model import CostModel
from controller.core.plan import Forwards, Plan, lane_span
from liger.domain import BatchKind, Lane, SegmentKind
from liger.schedule import StepSpan, StepSpans, WindowTimings
from liger.spans import LaneSpan
from liger.views import WindowMix

_KEPT_WINDOWS: Final = 64  # that exchanges may still tell of
_LEARN_EVERY: Final = 4  # windows: what changes slowly need not be learnt from all
_RECENT_WINDOWS: Final = 256  # for what is shown


class Ran(Sequence[LaneSpan]):
    """What a rank told at once, labelled only when it is read: few windows are ever looked at.

    Args:
        rank: Whose.
        spans: That ended since it told last.
        plans: Of their windows, by number.
        forwards: What each kind of batch runs.
    """

    def __init__(self, rank: int, spans: StepSpans, plans: Mapping[int, Plan], forwards: Forwards) -> None:
        self._rank = rank
        self._spans = spans
        self._plans = plans
        self._forwards = forwards

    @property
    def newest_ns(self) -> int:
        """When the last of the spans ended; 0 if there are none."""
        return max(self._spans.ends_ns, default=0)

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, place: int) -> LaneSpan: ...
    @overload
    def __getitem__(self, place: slice) -> "Ran": ...
    def __getitem__(self, place: int | slice) -> "LaneSpan | Ran":
        if isinstance(place, slice):
            return Ran(self._rank, self._spans[place], self._plans, self._forwards)
        span = self._spans[place]
        plan = self._plans[span.window]
        step = plan.pattern.steps[span.step]
        batch = plan.batches[step.operand]
        segment = self._forwards[batch.kind][plan.bases[step.operand] + step.segment]
        return lane_span(batch, segment, step, span, rank=self._rank)


class Observer:
    """Follows one epoch.

    Args:
        forwards: What each kind of batch runs.
        costs: Learns from what is seen; None for nothing to learn.
    """

    def __init__(self, forwards: Forwards, costs: CostModel | None) -> None:
        self._forwards = forwards
        self._costs = costs
        self._plans: OrderedDict[int, Plan] = OrderedDict()  # by window
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
        self._plans[number] = plan
        if len(self._plans) > _KEPT_WINDOWS:
            self._plans.popitem(last=False)

    def acknowledged(self, number: int, timings: Sequence[WindowTimings]) -> dict[int, Ran]:
        """Learn from the timings of a window, by rank; return what ran, by rank."""
        slowest = max(timings, key=lambda each: each.ended_ns - each.started_ns)
        self._lanes.append((slowest.communication_ns, slowest.exposed_ns))
        plan = self._plans.get(number)
        if self._costs is not None and plan is not None:
            self._costs.observe_window(plan.cut.predicted_ns, slowest.ended_ns - slowest.started_ns)
        ran = {rank: self._read(rank, StepSpans.of(each.spans)) for rank, each in enumerate(timings)}
        if self._costs is not None:
            self._costs.renew()
        return ran

    def _read(self, rank: int, spans: StepSpans) -> Ran:
        windows = set(spans.windows)
        plans = {window: self._plans[window] for window in windows if window in self._plans}
        sizes = dict.fromkeys(windows, 0) | {window: len(plan.pattern.steps) for window, plan in plans.items()}
        if any(
            map(ge, spans.steps, map(sizes.__getitem__, spans.windows))
        ):  # of windows of long ago, or never published
            spans = StepSpans.of([span for span in spans if span.step < sizes[span.window]])
        if self._costs is not None and any(window % _LEARN_EVERY == 1 for window in windows):
            for span in spans:
                self._learn(plans[span.window], span, self._costs)
        return Ran(rank, spans, plans, self._forwards)

    def _learn(self, plan: Plan, span: StepSpan, costs: CostModel) -> None:
        if not plan.cut.expected or plan.cut.version != costs.version or span.window % _LEARN_EVERY != 1:
            return
        step = plan.pattern.steps[span.step]
        kind = plan.batches[step.operand].kind
        segment = self._forwards[kind][plan.bases[step.operand] + step.segment]
        if segment.lane is Lane.COMMUNICATION and segment.kind is not SegmentKind.ALL_REDUCE:
            return  # others are too short to tell
        expected = plan.cut.expected[span.step]
        costs.observe(kind, segment.kind, expected.end_ns - expected.begin_ns, span.end_ns - span.begin_ns)
