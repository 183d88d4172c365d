"""Planned lanes as SVG: a row a lane, a bar a segment, a colour a batch."""

from collections.abc import Iterator, Sequence
from typing import Final

from liger.domain import Lane
from liger.pictures import svg
from liger.pictures.axis import marks, shown
from liger.pictures.names import colour, lane_name, lanes, letter, places, segment_name
from liger.spans import LaneSpan

_WIDTH: Final = 1200.0
_LEFT: Final = 150.0  # of the lanes
_RIGHT: Final = 20.0
_TOP: Final = 40.0
_ROW: Final = 34.0
_BAR: Final = 26.0
_LEGEND_STEP: Final = 18.0
_NUM_MARKS: Final = 10
_EDGE_WIDTH: Final = 3.0  # a narrower bar would be all edge
_LETTER_WIDTH: Final = 14.0  # a bar as wide has room for its letter
_NAME_WIDTH: Final = 96.0  # and for its segment's name
_PIECE_OPACITY: Final = "0.6"
_NS_PER_MS: Final = 1e6


def lanes_svg(spans: Sequence[LaneSpan], title: str) -> str:
    """Return the lanes of every stage as a picture; bars tell what they are when the pointer rests on them."""
    rows = lanes(spans)
    end_ns = max(span.end_ns for span in spans)
    bottom = _TOP + _ROW * len(rows)
    elements = [
        svg.text(10, 22, title, font_size="14", font_weight="bold"),
        *_axis(end_ns, bottom),
        *_rows(rows, end_ns),
        *_legend(spans, bottom + 40),
    ]
    num_batches = len({span.batch_id for span in spans})
    return svg.document(_WIDTH, bottom + 56 + (num_batches - 1) // 8 * _LEGEND_STEP, elements)


def _rows(rows: dict[tuple[int, Lane], list[LaneSpan]], end_ns: int) -> Iterator[str]:
    order = places(span for row in rows.values() for span in row)
    num_ranks = len({rank for rank, _ in rows})
    for number, ((rank, lane), row) in enumerate(rows.items()):
        top = _TOP + number * _ROW
        yield svg.text(_LEFT - 8, top + _BAR / 2 + 4, lane_name(rank, lane, num_ranks), anchor="end")
        for span in row:
            yield from _bar(span, order[span.batch_id], top, end_ns)


def _bar(span: LaneSpan, place: int, top: float, end_ns: int) -> Iterator[str]:
    left, right = _x(span.begin_ns, end_ns), _x(span.end_ns, end_ns)
    lasted_ms = (span.end_ns - span.begin_ns) / _NS_PER_MS
    told = f"{letter(place)} {span.batch.name.lower()} {span.num_tokens}: {segment_name(span)}, {lasted_ms:.3f} ms"
    opacity = "1" if span.num_pieces == 1 else _PIECE_OPACITY
    edge = {"stroke": "#ffffff", "stroke_width": "0.5"} if right - left >= _EDGE_WIDTH else {}
    yield svg.rectangle(left, top, right - left, _BAR, title=told, fill=colour(place), fill_opacity=opacity, **edge)
    if right - left >= _LETTER_WIDTH:
        label = f"{letter(place)} {span.segment.name.lower()}" if right - left >= _NAME_WIDTH else letter(place)
        yield svg.text(
            (left + right) / 2,
            top + _BAR / 2 + 4,
            label,
            anchor="middle",
            fill="#ffffff",
            pointer_events="none",
        )


def _axis(end_ns: int, bottom: float) -> Iterator[str]:
    times = marks(end_ns / _NS_PER_MS, _NUM_MARKS)
    for time, label in zip(times, shown(times), strict=True):
        x = _x(time * _NS_PER_MS, end_ns)
        yield svg.line(x, _TOP - 4, x, bottom, stroke=svg.FAINT)
        yield svg.text(x, bottom + 14, label, anchor="middle")
    yield svg.text(_LEFT - 8, bottom + 14, "ms", anchor="end")


def _legend(spans: Sequence[LaneSpan], y: float) -> Iterator[str]:
    first = {span.batch_id: span for span in reversed(spans)}
    for place, batch_id in enumerate(sorted(first)):
        span, x, line_y = first[batch_id], _LEFT + place % 8 * 128, y + place // 8 * _LEGEND_STEP
        told = f"{letter(place)} {span.batch.name.lower()} {span.num_tokens}"
        yield svg.rectangle(x, line_y - 10, 12, 12, fill=colour(place))
        yield svg.text(x + 18, line_y, told)


def _x(at_ns: float, end_ns: int) -> float:
    return _LEFT + at_ns / end_ns * (_WIDTH - _LEFT - _RIGHT)
