"""What ran, in the Trace Event Format (Chrome's JSON), which Perfetto opens."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from liger.domain import Lane
from liger.pictures.names import segment_name
from liger.spans import LaneSpan

_NS_PER_US: Final = 1e3
_THREADS_A_LANE: Final = 100  # numbers left for spans of one lane that overlap

Event = dict[str, Any]


def trace(spans: Sequence[LaneSpan]) -> dict[str, Any]:
    """Return a trace: a process a rank, a thread a lane, times in microseconds from the first begin.

    Ranks whose spans never overlap cannot share a clock; their newest ends are then laid over one another.
    """
    by_rank: defaultdict[int, list[LaneSpan]] = defaultdict(list)
    for span in spans:
        by_rank[span.rank].append(span)
    is_shared = _share_clock(by_rank.values())
    origins = {rank: max(span.end_ns for span in of_rank) for rank, of_rank in by_rank.items()}
    if is_shared:
        origins = dict.fromkeys(by_rank, 0)
    first = min((span.begin_ns - origins[span.rank] for span in spans), default=0)
    events = [event for rank in sorted(by_rank) for event in _process(rank, by_rank[rank], origins[rank] + first)]
    clock = "shared by the ranks" if is_shared else "each rank's own, newest ends laid over one another"
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"clock": clock}}


def _share_clock(by_rank: Iterable[Sequence[LaneSpan]]) -> bool:
    begins, ends = [], []
    for spans in by_rank:
        begins.append(min(span.begin_ns for span in spans))
        ends.append(max(span.end_ns for span in spans))
    return not begins or max(begins) < min(ends)


def _process(rank: int, spans: Sequence[LaneSpan], origin_ns: int) -> Iterator[Event]:
    yield _named("process_name", rank, 0, {"name": f"rank {rank}"})
    yield _named("process_sort_index", rank, 0, {"sort_index": rank})
    for lane in Lane:
        own = sorted((span for span in spans if span.lane is lane), key=lambda span: (span.begin_ns, span.end_ns))
        for number, row in enumerate(_rows(own)):
            thread = lane * _THREADS_A_LANE + number
            name = lane.name.lower() if not number else f"{lane.name.lower()} {number + 1}"
            yield _named("thread_name", rank, thread, {"name": name})
            yield _named("thread_sort_index", rank, thread, {"sort_index": thread})
            yield from (_event(span, thread, origin_ns) for span in row)


def _rows(spans: Iterable[LaneSpan]) -> list[list[LaneSpan]]:
    """Return spans in as few rows as show none over another; a thread's spans must not overlap."""
    rows: list[list[LaneSpan]] = []
    for span in spans:
        free = next((row for row in rows if row[-1].end_ns <= span.begin_ns), None)
        if free is None:
            rows.append([span])
        else:
            free.append(span)
    return rows


def _event(span: LaneSpan, thread: int, origin_ns: int) -> Event:
    arguments: dict[str, Any] = {"batch": span.batch_id, "tokens": span.num_tokens, "window": span.window}
    if span.num_pieces > 1:
        arguments["piece"] = f"{span.piece + 1} of {span.num_pieces}"
    return {
        "name": f"{span.batch.name.lower()} {span.batch_id} {segment_name(span)}",
        "cat": span.segment.name.lower(),
        "ph": "X",
        "pid": span.rank,
        "tid": thread,
        "ts": (span.begin_ns - origin_ns) / _NS_PER_US,
        "dur": (span.end_ns - span.begin_ns) / _NS_PER_US,
        "args": arguments,
    }


def _named(what: str, rank: int, thread: int, value: Event) -> Event:
    return {"name": what, "ph": "M", "pid": rank, "tid": thread, "args": value}
