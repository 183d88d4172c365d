"""What the points say together: interleaved against the others, beside what was possible at all."""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeGuard

from bench.link.clusters import SILENT
from bench.link.runs import AT_LOW_LOAD, AT_PIPELINE, AT_TENSOR, NEAR_INTERLEAVED, SATURATION, Run

WORTHY: Final = 0.9
"""Share of its ideal that pipeline must reach, or its row is marked invalid."""

_FEW: Final = 0.01

Curve = tuple[tuple[float, float], ...]  # (calls a second, P90 in seconds), by rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Ratios of interleaved to another; None where one of the two was not measured."""

    throughput_vs_tensor: float | None
    p90_vs_tensor_at_its_saturation: float | None
    throughput_vs_pipeline: float | None
    p90_vs_pipeline_at_its_throughput: float | None
    hidden_fraction: float | None
    low_load_p90_vs_best: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Times of a token when there is always work, in seconds, and what they allow."""

    tensor_s: float | None
    interleaved_s: float | None
    pipeline_s: float | None
    compute_s: float | None  # tensor without communication
    communication_s: float | None  # tensor's communication lane was busy
    communication_from: str  # timeline, or difference (tensor − compute)
    throughput_vs_tensor: float | None  # the most that hiding all could give
    throughput_vs_pipeline: float | None  # likewise
    hideable_s: float | None
    covered_share: float | None  # of the hideable communication, what the timeline shows under another batch's compute
    pipeline_ideal_s: float | None  # compute of its slowest stage
    pipeline_share_of_ideal: float | None
    pipeline_is_valid: bool | None  # None if it is not known
    p90_vs_pipeline_near_saturation: float | None  # at 0.9 × what interleaved sustains


class Points:
    """One load's points, looked up; those at which more than a few calls failed say nothing and are left out."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = [run for run in runs if run.figures.num_failed <= _FEW * run.figures.num_calls]
        self.num_left_out = len(runs) - len(self._runs)

    def median(self, contestant: str, label: str, value: Callable[[Run], float | None]) -> float | None:
        """Return the median over rounds."""
        found = [number for run in self._of(contestant, label) if _is_finite(number := value(run))]
        return statistics.median(found) if found else None

    def ratio(self, one: str, other: str, label: str, value: Callable[[Run], float | None]) -> float | None:
        """Return the median over rounds of one contestant's value by another's in the same round."""
        others = {run.round: value(run) for run in self._of(other, label)}
        pairs = [_divide(value(run), others.get(run.round)) for run in self._of(one, label)]
        found = [number for number in pairs if _is_finite(number)]
        return statistics.median(found) if found else None

    def curve(self, contestant: str) -> Curve:
        """Return P90 over the rate at which calls came."""
        rates = {run.label: run.rate for run in self._runs if run.strategy == contestant and run.rate is not None}
        points = [(rate, self.median(contestant, label, p90)) for label, rate in rates.items()]
        return tuple(sorted((rate, found) for rate, found in points if found is not None))

    def _of(self, contestant: str, label: str) -> list[Run]:
        return [run for run in self._runs if run.strategy == contestant and run.label == label]


def p90(run: Run) -> float:
    """Return a point's P90."""
    return run.figures.p90_s


def token_s(run: Run) -> float | None:
    """Return the time of a token."""
    return _divide(1.0, run.figures.tokens_per_s)


def compare(points: Points, bounds: Bounds) -> Comparison:
    """Return the ratios of interleaved to the others."""
    low = [points.ratio("interleaved", other, AT_LOW_LOAD, p90) for other in ("tensor", "pipeline")]
    return Comparison(
        throughput_vs_tensor=points.ratio("interleaved", "tensor", SATURATION, _throughput),
        p90_vs_tensor_at_its_saturation=points.ratio("interleaved", "tensor", AT_TENSOR, p90),
        throughput_vs_pipeline=points.ratio("interleaved", "pipeline", SATURATION, _throughput),
        p90_vs_pipeline_at_its_throughput=points.ratio("interleaved", "pipeline", AT_PIPELINE, p90),
        hidden_fraction=_hidden_fraction(bounds),
        low_load_p90_vs_best=max((ratio for ratio in low if ratio is not None), default=None),
    )


def find_bounds(points: Points) -> Bounds:
    """Return what a token costs in each way, and what that allows."""
    tensor_s, interleaved_s, pipeline_s, compute_s = (
        points.median(name, SATURATION, token_s) for name in ("tensor", "interleaved", "pipeline", SILENT)
    )
    busy_s = points.median("tensor", SATURATION, _communication_s)
    ideal_s = points.median("pipeline", SATURATION, _compute_s)
    communication_s = _subtract(tensor_s, compute_s) if busy_s is None else busy_s
    both = (compute_s, communication_s)
    longer_s = _of_both(max, *both)
    share = _divide(ideal_s, pipeline_s)
    return Bounds(
        tensor_s=tensor_s,
        interleaved_s=interleaved_s,
        pipeline_s=pipeline_s,
        compute_s=compute_s,
        communication_s=communication_s,
        communication_from="difference" if busy_s is None else "timeline",
        throughput_vs_tensor=_divide(tensor_s, longer_s),
        throughput_vs_pipeline=_divide(pipeline_s, longer_s),
        hideable_s=_of_both(min, *both),
        covered_share=points.median("interleaved", SATURATION, _covered_share),
        pipeline_ideal_s=ideal_s,
        pipeline_share_of_ideal=share,
        pipeline_is_valid=None if share is None else share >= WORTHY,
        p90_vs_pipeline_near_saturation=points.ratio("interleaved", "pipeline", NEAR_INTERLEAVED, p90),
    )


def crossing_rate(one: Curve, other: Curve) -> float | None:
    """Return the lowest rate at which two curves of P90 cross, between measured rates; None if they do not."""
    latencies = dict(other)
    gaps = [(rate, math.log(latency / latencies[rate])) for rate, latency in one if rate in latencies]
    for (rate, gap), (next_rate, next_gap) in itertools.pairwise(gaps):
        if gap * next_gap <= 0 and gap != next_gap:
            return rate + (next_rate - rate) * gap / (gap - next_gap)
    return None


def curves(points: Points, names: Sequence[str]) -> Mapping[str, Curve]:
    """Return every strategy's P90 over the rate, of those that have points."""
    found = {name: points.curve(name) for name in names}
    return {name: curve for name, curve in found.items() if curve}


def _throughput(run: Run) -> float:
    return run.figures.tokens_per_s


def _communication_s(run: Run) -> float | None:
    return run.lanes.communication_s_per_token if run.lanes else None


def _compute_s(run: Run) -> float | None:
    return run.lanes.compute_s_per_token if run.lanes else None


def _covered_share(run: Run) -> float | None:
    return run.lanes.covered_share if run.lanes else None


def _hidden_fraction(bounds: Bounds) -> float | None:
    return _divide(_subtract(bounds.tensor_s, bounds.interleaved_s), bounds.hideable_s)


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _divide(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _subtract(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _of_both(choose: Callable[[float, float], float], one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else choose(one, other)
