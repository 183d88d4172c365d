"""One measured point, as it is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.link.figures import Figures
from bench.link.lanes import Lanes
from bench.link.work import Load

SATURATION = "saturation"
"""Label of points at which a contestant always has work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One point."""

    load: Load
    strategy: str  # or SILENT
    round: int  # from 1
    label: str  # SATURATION, or which rate
    rate: float | None  # calls a second that came by chance; None at saturation
    figures: Figures
    lanes: Lanes | None  # at saturation, if the controller tells


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePoint:
    """A rate at which latencies are taken."""

    label: str
    rate: float  # calls a second
    strategies: tuple[str, ...]  # that are measured there


AT_LOW_LOAD = "0.1 × tensor"
AT_TENSOR = "1.0 × tensor"
AT_PIPELINE = "1.0 × pipeline"
NEAR_INTERLEAVED = "0.9 × interleaved"
_QUICK = {  # what the summary needs
    AT_LOW_LOAD: ("tensor", "pipeline", "interleaved"),
    AT_TENSOR: ("tensor", "interleaved"),
    AT_PIPELINE: ("pipeline", "interleaved"),
}
_POINTS = (
    (AT_LOW_LOAD, 0.1, "tensor"),
    ("0.5 × tensor", 0.5, "tensor"),
    ("0.8 × tensor", 0.8, "tensor"),
    ("0.95 × tensor", 0.95, "tensor"),
    (AT_TENSOR, 1.0, "tensor"),
    ("1.2 × tensor", 1.2, "tensor"),
    (NEAR_INTERLEAVED, 0.9, "interleaved"),
    (AT_PIPELINE, 1.0, "pipeline"),
)


def num_points(strategies: Sequence[str], *, quick: bool) -> int:
    """Return how many points a round has."""
    return sum(len(point.strategies) for point in choose_rates(dict.fromkeys(strategies, 1.0), quick=quick))


def choose_rates(sustained: Mapping[str, float], *, quick: bool) -> list[RatePoint]:
    """Return the rates to measure, ascending.

    Args:
        sustained: Calls a second that each strategy sustains.
        quick: Only what the summary needs.
    """
    chosen = [
        RatePoint(label=label, rate=share * sustained[name], strategies=_whose(label, sustained, quick=quick))
        for label, share, name in _POINTS
        if sustained.get(name, 0) > 0 and (not quick or label in _QUICK)
    ]
    return sorted(chosen, key=lambda point: point.rate)


def _whose(label: str, sustained: Mapping[str, float], *, quick: bool) -> tuple[str, ...]:
    return tuple(name for name in sustained if not quick or name in _QUICK[label])
