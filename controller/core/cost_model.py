"""Predicts how long segments take: the ranks' profile, interpolated, and corrected by what results tell.

Corrections are learnt slowly and with bounds, one for each (batch kind, segment kind), and enter predictions only when
they have moved far enough (`version` then grows), so that plans are cached and one outlier wrecks nothing.
"""

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import inf, log
from statistics import median
from typing import Final

from liger.domain import BatchKind, SegmentKind
from liger.profile import ContentionSample, ProfileTable, SegmentSample
from liger.views import Correction

EXCHANGES: Final = frozenset({SegmentKind.ALL_REDUCE, SegmentKind.GATHER, SegmentKind.SEND, SegmentKind.RECEIVE})

_STEP: Final = 0.05  # share of an observed deviation that is believed
_MOST_AT_ONCE: Final = 2.0  # an observation counts as at most so many times longer or shorter
_MOST: Final = 4.0  # a correction is at most so large
_HYSTERESIS: Final = 0.1  # a correction enters predictions when it has moved by so much
_RENEW_EVERY: Final = 8  # windows at least between the first versions; each later one takes longer to come
_RENEW_RARELY: Final = 64  # but not more than so many
_NUM_WINDOWS: Final = 256  # over which the error is taken
_LEAST_NS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A batch as the cost of its segments depends on it."""

    kind: BatchKind
    num_tokens: int
    context: int = 0  # tokens behind each, on average


@dataclass(slots=True)
class _Learnt:
    active: float = 1.0  # enters predictions
    pending: float = 1.0
    num_observations: int = 0


Key = tuple[BatchKind | None, SegmentKind]


class CostModel:
    """Durations for one group's model on its ranks.

    Args:
        table: What the ranks measured.
    """

    def __init__(self, table: ProfileTable) -> None:
        self.table = table
        self.version = 1
        self._since_renewal = _RENEW_EVERY  # the first comes soon
        self._curves = _curves(table.segments)
        self._learnt: defaultdict[Key, _Learnt] = defaultdict(_Learnt)
        self._errors: deque[float] = deque(maxlen=_NUM_WINDOWS)
        self._measured = cache(self._interpolate)
        self._contention = cache(self._nearest_contention)
        self._held_curve = _held_curve(table.segments)
        self._held = cache(lambda num_tokens: _on_curve(self._held_curve, num_tokens))

    @property
    def error(self) -> float | None:
        """Median relative error of the predicted durations of the last windows."""
        return median(self._errors) if self._errors else None

    def duration_ns(self, shape: Shape, segment: SegmentKind) -> float:
        """Return how long a segment takes while the other lane is idle."""
        key = _key(shape.kind, segment)
        measured = self._measured(key, shape.num_tokens, 0 if key[0] is None else shape.context)
        learnt = self._learnt.get(key)
        return max(measured * (learnt.active if learnt else 1.0), _LEAST_NS)

    def held_share(self, shape: Shape, segment: SegmentKind) -> float:
        """Return for which share of its time a segment keeps its lane, 0 to 1: less than all only of exchanges."""
        if segment is not SegmentKind.ALL_REDUCE:
            return 1.0
        return min(self._held(shape.num_tokens), 1.0)

    def contention(self, compute: SegmentKind, num_tokens: int, exchanged_tokens: int) -> tuple[float, float]:
        """Return how many times longer (the compute, the exchange) takes when both run, by the nearest co-run."""
        return self._contention(compute, num_tokens, exchanged_tokens * self.table.activation_bytes)

    def observe(self, kind: BatchKind, segment: SegmentKind, predicted_ns: float, measured_ns: float) -> None:
        """Learn from one segment's duration; a new version comes with `renew`."""
        if predicted_ns <= 0 or measured_ns <= 0:
            return
        ratio = min(max(measured_ns / predicted_ns, 1 / _MOST_AT_ONCE), _MOST_AT_ONCE)
        learnt = self._learnt[_key(kind, segment)]
        moved = learnt.pending * (learnt.active / learnt.pending * ratio) ** _STEP
        learnt.pending = min(max(moved, 1 / _MOST), _MOST)
        learnt.num_observations += 1

    def observe_window(self, predicted_ns: float, measured_ns: float) -> None:
        """Note how well a window was predicted."""
        if predicted_ns > 0 and measured_ns > 0:
            self._errors.append(abs(predicted_ns - measured_ns) / measured_ns)

    def renew(self) -> bool:
        """Let corrections that have moved far enough enter predictions, now and then; return whether any did.

        Called once a window.
        """
        self._since_renewal += 1
        if self._since_renewal < min(_RENEW_EVERY * self.version, _RENEW_RARELY):
            return False
        moved = [one for one in self._learnt.values() if abs(log(one.pending / one.active)) > _HYSTERESIS]
        if not moved:
            return False
        for one in self._learnt.values():
            one.active = one.pending
        self._since_renewal = 0
        self.version += 1
        return True

    def corrections(self) -> tuple[Correction, ...]:
        """Return what was learnt, for people."""
        return tuple(
            Correction(batch=kind, segment=segment, factor=one.pending, num_observations=one.num_observations)
            for (kind, segment), one in sorted(self._learnt.items(), key=lambda item: (item[0][0] or 0, item[0][1]))
        )

    def _interpolate(self, key: Key, num_tokens: int, context: int) -> float:
        curves = self._curves.get(key) or self._any_kind(key[1])
        if not curves:
            return 0.0
        by_context = [(at, _on_curve(curve, num_tokens)) for at, curve in curves]
        return _on_curve(by_context, context)

    def _any_kind(self, segment: SegmentKind) -> "_Curves":
        return next((curves for (_, kind), curves in self._curves.items() if kind is segment), [])

    def _nearest_contention(self, compute: SegmentKind, num_tokens: int, num_bytes: int) -> tuple[float, float]:
        def distance(sample: ContentionSample) -> float:
            if sample.compute is not compute:
                return inf
            return abs(log(sample.compute_tokens / num_tokens)) + abs(log(sample.communication_bytes / num_bytes))

        nearest = min(self.table.contention, key=distance, default=None)
        if nearest is None or nearest.compute is not compute:
            return 1.0, 1.0
        return max(nearest.compute_factor, 1.0), max(nearest.communication_factor, 1.0)


_Curve = list[tuple[int, float]]  # (size, ns), by size
_Curves = list[tuple[int, _Curve]]  # (context, curve over tokens), by context


def _key(kind: BatchKind, segment: SegmentKind) -> Key:
    return (None if segment in EXCHANGES else kind, segment)


def _curves(samples: Iterable[SegmentSample]) -> dict[Key, _Curves]:
    found: defaultdict[Key, defaultdict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for sample in samples:
        kind = None if sample.segment in EXCHANGES else sample.batch
        found[kind, sample.segment][sample.context][sample.num_tokens] = float(sample.duration_ns)
    return {
        key: [(context, sorted(curve.items())) for context, curve in sorted(contexts.items())]
        for key, contexts in found.items()
    }


def _held_curve(samples: Iterable[SegmentSample]) -> _Curve:
    """Return the share of an all-reduce's time for which it keeps its lane, by tokens."""
    shares = {
        sample.num_tokens: sample.held_ns / sample.duration_ns if sample.held_ns else 1.0
        for sample in samples
        if sample.segment is SegmentKind.ALL_REDUCE and sample.duration_ns > 0
    }
    return sorted(shares.items()) or [(1, 1.0)]


def _on_curve(curve: _Curve, size: int) -> float:
    """Return the value at a size: linear between points, and beyond the last; below the first, the first."""
    place = bisect_left(curve, (size, -inf))
    if place < len(curve) and curve[place][0] == size:
        return curve[place][1]
    if place == 0 or len(curve) == 1:
        return curve[0][1]
    (low, low_ns), (high, high_ns) = curve[min(place, len(curve) - 1) - 1], curve[min(place, len(curve) - 1)]
    return max(low_ns + (high_ns - low_ns) * (size - low) / (high - low), 0.0)
