"""Planned lanes as text: a row a lane, a mark a stretch of time."""

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Final

from rich.text import Text

from liger.domain import SegmentKind
from liger.pictures.axis import marks, shown
from liger.pictures.names import colour, lane_name, lanes, letter, places
from liger.spans import LaneSpan

MARKS: Final[Mapping[SegmentKind, str]] = {
    SegmentKind.EMBED: ":",
    SegmentKind.ATTENTION: "=",
    SegmentKind.MLP: "#",
    SegmentKind.ALL_REDUCE: "~",
    SegmentKind.HEAD: "+",
    SegmentKind.GATHER: "-",
    SegmentKind.SAMPLE: "*",
    SegmentKind.SEND: ">",
    SegmentKind.RECEIVE: "<",
}
"""What a segment is filled with, after the letter of its batch."""

_IDLE: Final = "."
_SHORT: Final = ","
_SHORT_SHARE: Final = 0.5  # a column that is busy for less is shown as such
_NS_PER_MS: Final = 1e6
_TICK_COLUMNS: Final = 12  # between the numbers of the time axis, at least
_FEWEST_COLUMNS: Final = 20


def lane_rows(spans: Sequence[LaneSpan], width: int) -> list[Text]:
    """Return a row for each lane of each stage, the time axis below, and what the marks mean.

    A segment begins with its batch's letter, small for a piece of a decomposed one, and goes on with its kind's mark.
    A column shows what fills most of it.
    """
    rows = lanes(spans)
    num_ranks = len({rank for rank, _ in rows})
    names = [lane_name(rank, lane, num_ranks) for rank, lane in rows]
    indent = max(map(len, names)) + 2
    columns = max(_FEWEST_COLUMNS, width - indent)
    end_ns = max(span.end_ns for span in spans)
    order = places(spans)
    drawn = [
        Text(name.ljust(indent)).append_text(_row(row, columns, end_ns, order))
        for name, row in zip(names, rows.values(), strict=True)
    ]
    axis = Text("ms".ljust(indent) + _axis(end_ns, columns), style="dim")
    return [*drawn, axis, Text(_legend(spans), style="dim")]


def _row(spans: Sequence[LaneSpan], columns: int, end_ns: int, order: Mapping[int, int]) -> Text:
    row, before = Text(), None
    for span, share in _owners(spans, columns, end_ns):
        if span is None:
            row.append(_IDLE, "dim")
        else:
            place = order[span.batch_id]
            name = letter(place) if span.num_pieces == 1 else letter(place).lower()
            mark = MARKS[span.segment] if span is before else name
            row.append(mark if share >= _SHORT_SHARE else _SHORT, colour(place))
        before = span
    return row


def _owners(spans: Sequence[LaneSpan], columns: int, end_ns: int) -> Iterator[tuple[LaneSpan | None, float]]:
    """Yield the span that fills most of each column, None where nothing runs, and the share that is busy."""
    first = 0
    for column in range(columns):
        begin, end = (edge * end_ns / columns for edge in (column, column + 1))
        while first < len(spans) and spans[first].end_ns <= begin:
            first += 1
        shares: list[tuple[float, LaneSpan]] = []
        for span in spans[first:]:
            if span.begin_ns >= end:
                break
            shares.append((min(end, span.end_ns) - max(begin, span.begin_ns), span))
        busy = sum(share for share, _ in shares)
        yield (max(shares, key=itemgetter(0))[1] if busy else None), busy / (end - begin)


def _axis(end_ns: int, columns: int) -> str:
    """Return the time axis in milliseconds; a number begins where its time is."""
    end_ms = end_ns / _NS_PER_MS
    times = marks(end_ms, columns // _TICK_COLUMNS)
    row = [" "] * columns
    for time, label in zip(times, shown(times), strict=True):
        at = round(time / end_ms * columns)
        if at + len(label) < columns:
            row[at : at + len(label) + 1] = f"|{label}"
    return "".join(row).rstrip()


def _legend(spans: Sequence[LaneSpan]) -> str:
    kinds = sorted({span.segment for span in spans})
    meant = [f"{MARKS[kind]} {kind.name.lower().replace('_', '-')}" for kind in kinds]
    pieces = ["small letter: a piece of a segment"] if any(span.num_pieces > 1 for span in spans) else []
    return "  ".join([*meant, f"{_IDLE} idle", f"{_SHORT} mostly idle", *pieces])
