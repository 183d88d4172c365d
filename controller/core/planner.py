"""Lays the batches in flight on the lanes: from their positions to the window's pattern.

The first planner knows depth 1: the oldest batch runs to its end, which is plain tensor parallelism. Patterns are cut
from the segment lists that the ranks reported, once for each (kind, position), and cached.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from controller.core.batch import Batch
from liger.digest import pattern_digest
from liger.domain import BatchKind
from liger.schedule import Pattern, Segment, Step

Forwards = Mapping[BatchKind, tuple[Segment, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One window's order, and where it leaves its batches."""

    pattern: Pattern
    batches: tuple[Batch, ...]  # the batch behind each operand
    positions: tuple[int, ...]  # segments published of each, after this window


class Planner:
    """Plans windows for one group's forwards; deterministic.

    Args:
        forwards: The segments that each kind of batch runs, as the ranks reported them.
    """

    def __init__(self, forwards: Forwards) -> None:
        self.forwards = forwards
        self._pattern = cache(self._plan_pattern)

    def plan(self, in_flight: Sequence[Batch]) -> Plan:
        """Plan the next window of the batches in flight, oldest first; at least one."""
        oldest = in_flight[0]
        pattern = self._pattern(oldest.kind, oldest.position)
        return Plan(pattern=pattern, batches=(oldest,), positions=(len(self.forwards[oldest.kind]),))

    def _plan_pattern(self, kind: BatchKind, position: int) -> Pattern:
        segments = self.forwards[kind]
        steps = tuple(
            Step(operand=0, segment=number, lane=segments[number].lane) for number in range(position, len(segments))
        )
        return Pattern(id=pattern_digest((kind,), steps), operands=(kind,), steps=steps)
