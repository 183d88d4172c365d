"""Draws latency over rate as SVG: a panel for each load, a line for each strategy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import Final

from bench.link.summary import Curve
from liger.pictures import svg
from liger.pictures.axis import marks, powers, shown
from liger.pictures.names import colour

_WIDTH: Final = 640.0  # of a panel
_HEIGHT: Final = 420.0
_LEFT: Final = 70.0
_RIGHT: Final = 20.0
_TOP: Final = 64.0
_BOTTOM: Final = 50.0
_MOST_MARKS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One load's curves."""

    title: str
    curves: Mapping[str, Curve]  # by strategy; colours go by their order
    crossing_rate: float | None = None


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a panel's values stand: rates evenly, latencies by their logarithm."""

    left: float  # pixel of rate 0
    highest_rate: float
    lowest_ms: float
    highest_ms: float

    def x(self, rate: float) -> float:
        return self.left + rate / self.highest_rate * (_WIDTH - _LEFT - _RIGHT)

    def y(self, latency_ms: float) -> float:
        share = log10(latency_ms / self.lowest_ms) / log10(self.highest_ms / self.lowest_ms)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def draw_curves(panels: Sequence[Panel]) -> str:
    """Return a picture of all panels that have points, side by side."""
    drawn = [panel for panel in panels if any(panel.curves.values())]
    elements = [part for place, panel in enumerate(drawn) for part in _panel(panel, place * _WIDTH)]
    return svg.document(_WIDTH * max(len(drawn), 1), _HEIGHT, elements)


def _panel(panel: Panel, offset: float) -> Iterator[str]:
    points = [point for curve in panel.curves.values() for point in curve]
    latencies_ms = [1000 * latency for _, latency in points]
    decades = powers(min(latencies_ms), max(latencies_ms))
    frame = _Frame(offset + _LEFT, 1.05 * max(rate for rate, _ in points), decades[0], decades[-1])
    yield svg.text(offset + _LEFT, 22, panel.title, font_size="14", font_weight="bold")
    yield from _grid(frame, decades)
    if panel.crossing_rate is not None:
        x = frame.x(panel.crossing_rate)
        yield svg.line(x, _TOP, x, _HEIGHT - _BOTTOM, stroke="#888888")
        yield svg.text(x + 4, _TOP + 12, f"crossing at {panel.crossing_rate:.1f}/s", font_size="11")
    for place, (name, curve) in enumerate(panel.curves.items()):
        yield from _curve(name, curve, place, frame)


def _grid(frame: _Frame, decades: Sequence[float]) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, frame.x(frame.highest_rate)
    rates = marks(frame.highest_rate, _MOST_MARKS)
    for rate, label in zip(rates, shown(rates), strict=True):
        yield svg.line(frame.x(rate), _TOP, frame.x(rate), bottom, stroke=svg.FAINT)
        yield svg.text(frame.x(rate), bottom + 16, label, anchor="middle")
    for decade in decades:
        for factor in (1, 2, 5):
            if (latency_ms := factor * decade) <= decades[-1]:
                yield svg.line(frame.left, frame.y(latency_ms), right, frame.y(latency_ms), stroke=svg.FAINT)
                yield svg.text(frame.left - 6, frame.y(latency_ms) + 4, f"{latency_ms:,g}", anchor="end")
    yield svg.text((frame.left + right) / 2, _HEIGHT - 12, "calls a second", anchor="middle")
    x, y = frame.left - _LEFT + 14, (_TOP + bottom) / 2
    yield svg.text(x, y, "P90 latency in ms", anchor="middle", transform=f"rotate(-90 {x:g} {y:g})")


def _curve(name: str, curve: Curve, place: int, frame: _Frame) -> Iterator[str]:
    points = [(frame.x(rate), frame.y(1000 * latency)) for rate, latency in curve]
    yield svg.polyline(points, stroke=colour(place), stroke_width="2")
    for (x, y), (rate, latency) in zip(points, curve, strict=True):
        yield svg.circle(x, y, title=f"{name}: {1000 * latency:.1f} ms at {rate:.1f}/s", fill=colour(place))
    x = frame.left + 130 * place
    yield svg.line(x, 42, x + 24, 42, stroke=colour(place))
    yield svg.text(x + 30, 46, name)
