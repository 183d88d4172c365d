"""How fast the ranks work, as measured: nanoseconds a token of encode and prefill batches, a step of decode batches.

The cost model knows more, but only where the ranks were profiled; this is there under every strategy.
"""

from typing import Final

from liger.domain import BatchKind

_BELIEF: Final = 0.1  # share of a new measurement that is believed
_FIRST_NS: Final = 1e5  # before anything was measured: for shares only, admission asks `is_known`


class Pace:
    """Follows one epoch."""

    def __init__(self) -> None:
        self._ns: dict[BatchKind, float] = {}

    def is_known(self, kind: BatchKind) -> bool:
        """Whether a batch of the kind was measured."""
        return kind in self._ns

    def batch_ns(self, kind: BatchKind, num_tokens: int) -> float:
        """Return how long a batch keeps the ranks busy, from its first segment to its last."""
        return self._ns.get(kind, _FIRST_NS) * _units(kind, num_tokens)

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
        measured = measured_ns / (share * _units(kind, num_tokens))
        known = self._ns.get(kind, measured)
        self._ns[kind] = known + _BELIEF * (measured - known)


def _units(kind: BatchKind, num_tokens: int) -> int:
    return 1 if kind is BatchKind.DECODE else num_tokens
