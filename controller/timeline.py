"""What ran lately on every lane: a bounded memory of what windows told."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from liger.spans import LaneSpan


@dataclass(frozen=True, slots=True)
class _Told:
    """What one rank told at once."""

    rank: int
    spans: Sequence[LaneSpan]  # labelled only when they are read
    newest_ns: int  # end


class Timeline:
    """The spans that ended lately, rank by rank; ranks may have different clocks.

    Args:
        keep_s: A span that ended so long before the newest of its rank is forgotten.
        max_spans: About so many are kept at most, of all ranks together; the oldest go first.
    """

    def __init__(self, keep_s: float = 60.0, max_spans: int = 200_000) -> None:
        self._keep_ns = round(keep_s * 1e9)
        self._max_spans = max_spans
        self._told: deque[_Told] = deque()  # as they came
        self._num_spans = 0
        self._newest_ns: dict[int, int] = {}  # newest end, by rank

    def add(self, rank: int, spans: Sequence[LaneSpan], newest_ns: int) -> None:
        """Take spans that ended on one rank, the last of them at `newest_ns`."""
        if not spans:
            return
        self._told.append(_Told(rank, spans, newest_ns))
        self._num_spans += len(spans)
        self._newest_ns[rank] = max(newest_ns, self._newest_ns.get(rank, newest_ns))
        while self._num_spans - len(self._told[0].spans) >= self._max_spans or self._is_old(self._told[0]):
            self._num_spans -= len(self._told.popleft().spans)

    def copy(self) -> "Timeline":
        """Return what is there now, to be read on another thread."""
        copied = Timeline(self._keep_ns / 1e9, self._max_spans)
        copied._told, copied._newest_ns = self._told.copy(), dict(self._newest_ns)
        return copied

    def last(self, seconds: float) -> tuple[LaneSpan, ...]:
        """Return the spans that ended within so many seconds before the newest of their rank, by rank and begin."""
        limit_ns = min(seconds * 1e9, self._keep_ns)
        since_ns = {rank: newest_ns - limit_ns for rank, newest_ns in self._newest_ns.items()}
        recent = [told for told in self._told if told.newest_ns >= since_ns[told.rank]]
        found = [span for told in recent for span in told.spans if span.end_ns >= since_ns[told.rank]]
        return tuple(sorted(found, key=lambda span: (span.rank, span.begin_ns)))

    def clear(self) -> None:
        """Forget all: a new epoch's ranks may have other clocks, and count batches and windows anew."""
        self._told.clear()
        self._num_spans = 0
        self._newest_ns.clear()

    def _is_old(self, told: _Told) -> bool:
        return self._newest_ns[told.rank] - told.newest_ns > self._keep_ns
