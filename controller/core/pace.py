"""How fast the ranks work, as measured: a line through batches' times by their tokens, for each kind of batch.

The cost model knows more, but only where the ranks were profiled; this is there under every strategy.
"""

from dataclasses import dataclass
from typing import Final

from liger.domain import BatchKind

_BELIEF: Final = 0.05  # share of a new measurement that is believed
_MOST_AT_ONCE: Final = 4.0  # times longer or shorter than expected: what a pause of the ranks teaches is bounded
_FIRST_NS: Final = 1e5  # a token, before anything was measured: for shares only, admission asks `is_known`
_LEAST_SPREAD: Final = 0.02  # of sizes, as a share of their mean squared, from which a slope can be told


@dataclass(slots=True)
class _Line:
    """Weighted means of sizes and times."""

    size: float
    time: float
    size_squared: float
    size_time: float

    def add(self, size: float, time: float) -> None:
        self.size += _BELIEF * (size - self.size)
        self.time += _BELIEF * (time - self.time)
        self.size_squared += _BELIEF * (size * size - self.size_squared)
        self.size_time += _BELIEF * (size * time - self.size_time)

    @property
    def slope(self) -> float:
        """Time a token; 0 where all sizes were about the same."""
        spread = self.size_squared - self.size**2
        if spread <= _LEAST_SPREAD * self.size**2:
            return 0.0
        return min(max(0.0, (self.size_time - self.size * self.time) / spread), self.time / self.size)


class Pace:
    """Follows one epoch."""

    def __init__(self) -> None:
        self._lines: dict[BatchKind, _Line] = {}

    def is_known(self, kind: BatchKind) -> bool:
        """Whether a batch of the kind was measured."""
        return kind in self._lines

    def batch_ns(self, kind: BatchKind, num_tokens: int) -> float:
        """Return how long a batch keeps the ranks busy, from its first segment to its last.

        For sizes that were never seen it is rather too little: what is not known to grow is taken to stay.
        """
        line = self._lines.get(kind)
        if line is None:
            return _FIRST_NS * num_tokens
        return max(0.0, line.time + line.slope * (num_tokens - line.size))

    def tokens_ns(self, kind: BatchKind, num_tokens: int, most: int) -> float:
        """Return what so many tokens take, at the least, in batches of at most `most` tokens."""
        return num_tokens / most * self.batch_ns(kind, most)

    def share_ns(self, kind: BatchKind, num_tokens: int) -> float:
        """Return what so many tokens add, or their share of a batch's time where sizes were all about the same."""
        line = self._lines.get(kind)
        if line is None:
            return 0.0
        return (line.slope or line.time / line.size) * num_tokens

    def observe(self, kind: BatchKind, num_tokens: int, share: float, measured_ns: float) -> None:
        """Learn from a part of a batch.

        Args:
            kind: The batch's.
            num_tokens: The batch's.
            share: How much of its forward the part is, 0 to 1.
            measured_ns: Time in which the ranks computed for it, or waited for its exchanges.
        """
        if share <= 0 or measured_ns <= 0:
            return
        size, time = float(num_tokens), measured_ns / share
        line = self._lines.get(kind)
        if line is None:
            self._lines[kind] = _Line(size, time, size * size, size * time)
        else:
            expected = max(self.batch_ns(kind, num_tokens), 1.0)
            line.add(size, min(max(time, expected / _MOST_AT_ONCE), expected * _MOST_AT_ONCE))
