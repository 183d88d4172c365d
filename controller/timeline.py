"""What ran lately on every lane: a bounded memory of spans."""

from collections import deque
from collections.abc import Iterable
from typing import Final

from liger.domain import BatchKind, Lane, SegmentKind
from liger.spans import LaneSpan

_Kept = tuple[int, int, int, int, int, int, int, int, int, int, int, int]
"""A span as plain numbers: of these the garbage collector follows none, however many are kept."""

_END: Final = 11  # its place among them


class Timeline:
    """The spans that ended lately, rank by rank; ranks may have different clocks.

    Args:
        keep_s: A span that ended so long before the newest of its rank is forgotten.
        max_spans: So many are kept at most, of all ranks together; the oldest go first.
    """

    def __init__(self, keep_s: float = 60.0, max_spans: int = 200_000) -> None:
        self._keep_ns = round(keep_s * 1e9)
        self._spans: deque[_Kept] = deque(maxlen=max_spans)  # as they came
        self._newest_ns: dict[int, int] = {}  # newest end, by rank

    def add(self, rank: int, spans: Iterable[LaneSpan]) -> None:
        """Take spans that ended on one rank."""
        for span in spans:
            self._spans.append(_to_kept(span))
            self._newest_ns[rank] = max(span.end_ns, self._newest_ns.get(rank, span.end_ns))
        while self._spans and self._age_ns(self._spans[0]) > self._keep_ns:
            self._spans.popleft()

    def copy(self) -> "Timeline":
        """Return what is there now, to be read on another thread."""
        copied = Timeline(self._keep_ns / 1e9, self._spans.maxlen or 0)
        copied._spans, copied._newest_ns = self._spans.copy(), dict(self._newest_ns)
        return copied

    def last(self, seconds: float) -> tuple[LaneSpan, ...]:
        """Return the spans that ended within so many seconds before the newest of their rank, by rank and begin."""
        limit_ns = min(seconds * 1e9, self._keep_ns)
        since_ns = {rank: newest_ns - limit_ns for rank, newest_ns in self._newest_ns.items()}
        found = [_from_kept(kept) for kept in self._spans if kept[_END] >= since_ns[kept[0]]]
        return tuple(sorted(found, key=lambda span: (span.rank, span.begin_ns)))

    def clear(self) -> None:
        """Forget all: a new epoch's ranks may have other clocks, and count batches and windows anew."""
        self._spans.clear()
        self._newest_ns.clear()

    def _age_ns(self, kept: _Kept) -> int:
        return self._newest_ns[kept[0]] - kept[_END]


def _to_kept(span: LaneSpan) -> _Kept:
    return (
        span.rank,
        int(span.lane),
        span.batch_id,
        int(span.batch),
        span.num_tokens,
        int(span.segment),
        span.layer,
        span.piece,
        span.num_pieces,
        span.window,
        span.begin_ns,
        span.end_ns,
    )


def _from_kept(kept: _Kept) -> LaneSpan:
    rank, lane, batch_id, batch, num_tokens, segment, layer, piece, num_pieces, window, begin_ns, end_ns = kept
    return LaneSpan(
        rank=rank,
        lane=Lane(lane),
        batch_id=batch_id,
        batch=BatchKind(batch),
        num_tokens=num_tokens,
        segment=SegmentKind(segment),
        layer=layer,
        piece=piece,
        num_pieces=num_pieces,
        window=window,
        begin_ns=begin_ns,
        end_ns=end_ns,
    )
