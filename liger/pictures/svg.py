"""SVG, written by hand: elements as text."""

from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

INK = "#222222"
FAINT = "#dddddd"


def document(width: float, height: float, elements: Iterable[str]) -> str:
    """Return a whole picture on white ground."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}"'
    view = f'viewBox="0 0 {_n(width)} {_n(height)}" font-family="sans-serif" font-size="12" fill="{INK}">'
    ground = rectangle(0, 0, width, height, fill="#ffffff")
    return "\n".join([f"{head} {view}", ground, *elements, "</svg>", ""])


def rectangle(left: float, top: float, width: float, height: float, *, title: str = "", **attributes: str) -> str:
    """Return a rectangle; the title is shown when the pointer rests on it."""
    where = f'x="{_n(left)}" y="{_n(top)}" width="{_n(width)}" height="{_n(height)}"'
    return _element("rect", where, attributes, f"<title>{_text(title)}</title>" if title else "")


def line(left: float, top: float, right: float, bottom: float, *, stroke: str = INK) -> str:
    """Return a straight line."""
    where = f'x1="{_n(left)}" y1="{_n(top)}" x2="{_n(right)}" y2="{_n(bottom)}"'
    return _element("line", where, {"stroke": stroke}, "")


def polyline(points: Iterable[tuple[float, float]], **attributes: str) -> str:
    """Return lines from point to point."""
    where = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    return _element("polyline", f'points="{where}"', {"fill": "none", **attributes}, "")


def circle(x: float, y: float, *, title: str = "", **attributes: str) -> str:
    """Return a dot."""
    inside = f"<title>{_text(title)}</title>" if title else ""
    return _element("circle", f'cx="{_n(x)}" cy="{_n(y)}" r="2.5"', attributes, inside)


def text(x: float, y: float, content: str, *, anchor: str = "start", **attributes: str) -> str:
    """Return a line of text whose start, middle or end stands at a point."""
    return _element("text", f'x="{_n(x)}" y="{_n(y)}"', {"text-anchor": anchor, **attributes}, _text(content))


def _element(name: str, where: str, attributes: dict[str, str], inside: str) -> str:
    given = "".join(f" {key.replace('_', '-')}={quoteattr(_clean(value))}" for key, value in attributes.items())
    return f"<{name} {where}{given}>{inside}</{name}>" if inside else f"<{name} {where}{given}/>"


def _text(content: str) -> str:
    return escape(_clean(content))


def _clean(content: str) -> str:
    """Leave out what no XML may hold."""
    return "".join(mark for mark in content if mark.isprintable())


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
