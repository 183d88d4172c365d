"""Curves on two logarithmic axes, as SVG."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from liger.pictures import svg
from liger.pictures.axis import powers
from liger.pictures.names import COLOURS, colour

_WIDTH: Final = 900.0
_HEIGHT: Final = 520.0
_LEFT: Final = 70.0
_RIGHT: Final = 250.0  # room for the legend
_TOP: Final = 40.0
_BOTTOM: Final = 50.0
_LEGEND_STEP: Final = 18.0
_DASHES: Final = ("none", "6 3", "2 2")  # one after another where there are more curves than colours


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of a picture."""

    name: str
    points: tuple[tuple[float, float], ...]  # (x, y), by x, all positive


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic scale onto pixels."""

    marks: tuple[float, ...]  # powers of ten
    first: float  # pixel of the first mark
    last: float

    def at(self, value: float) -> float:
        low, high = math.log10(self.marks[0]), math.log10(self.marks[-1])
        return self.first + (math.log10(value) - low) / (high - low) * (self.last - self.first)


def curves_svg(curves: Sequence[Curve], *, title: str, x_label: str, y_label: str) -> str:
    """Return curves as a picture, a colour each; needs at least one point."""
    points = [point for curve in curves for point in curve.points]
    x_axis = _Axis(_marks([x for x, _ in points]), _LEFT, _WIDTH - _RIGHT)
    y_axis = _Axis(_marks([y for _, y in points]), _HEIGHT - _BOTTOM, _TOP)
    middle_x, middle_y = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = f"rotate(-90 16 {middle_y})"
    height = max(_HEIGHT, _TOP + _LEGEND_STEP * len(curves) + 20)
    elements = [
        svg.text(10, 22, title, font_size="14", font_weight="bold"),
        *_grid(x_axis, y_axis),
        svg.text(middle_x, _HEIGHT - 12, x_label, anchor="middle"),
        svg.text(16, middle_y, y_label, anchor="middle", transform=turned),
        *(part for place, curve in enumerate(curves) for part in _curve(curve, place, x_axis, y_axis)),
    ]
    return svg.document(_WIDTH, height, elements)


def _marks(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(powers(min(values), max(values)))


def _grid(x_axis: _Axis, y_axis: _Axis) -> Iterator[str]:
    for mark in x_axis.marks:
        x = x_axis.at(mark)
        yield svg.line(x, y_axis.first, x, y_axis.last, stroke=svg.FAINT)
        yield svg.text(x, y_axis.first + 16, f"{mark:,g}", anchor="middle")
    for mark in y_axis.marks:
        y = y_axis.at(mark)
        yield svg.line(x_axis.first, y, x_axis.last, y, stroke=svg.FAINT)
        yield svg.text(x_axis.first - 6, y + 4, f"{mark:,g}", anchor="end")


def _curve(curve: Curve, place: int, x_axis: _Axis, y_axis: _Axis) -> Iterator[str]:
    dashes = {"stroke_dasharray": _DASHES[place // len(COLOURS) % len(_DASHES)]}
    at = [(x_axis.at(x), y_axis.at(y)) for x, y in curve.points]
    yield svg.polyline(at, stroke=colour(place), stroke_width="1.5", **dashes)
    for (x, y), where in zip(curve.points, at, strict=True):
        yield svg.circle(*where, title=f"{curve.name}: {x:,g}, {y:,.4g}", fill=colour(place))
    y = _TOP + 6 + place * _LEGEND_STEP
    left = _WIDTH - _RIGHT + 16
    yield svg.polyline([(left, y), (left + 22, y)], stroke=colour(place), stroke_width="2", **dashes)
    yield svg.text(left + 28, y + 4, curve.name)
