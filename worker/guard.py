"""Lets only windows through that this rank may run: right epoch, no gap, known pattern and batches, right digest."""

from collections.abc import Mapping

from liger.digest import order_digest, pattern_digest
from liger.domain import BatchKind, Fence
from liger.errors import ScheduleRefusedError, StaleFenceError
from liger.schedule import Pattern, Segment, Window


class WindowGuard:
    """Follows one epoch's windows.

    Args:
        fence: The epoch's.
        forwards: The segments of each kind of batch.
        num_slots: Batches in flight at once, at most.
    """

    def __init__(self, *, fence: Fence, forwards: Mapping[BatchKind, tuple[Segment, ...]], num_slots: int) -> None:
        self._fence = fence
        self._forwards = forwards
        self._num_slots = num_slots
        self._patterns: dict[int, Pattern] = {}
        self._last_number = 0
        self._last_batch_id = 0
        self._in_flight: dict[int, tuple[BatchKind, int, int]] = {}  # batch id: kind, next segment, slot

    def learn(self, pattern: Pattern) -> None:
        """Keep a pattern for later windows.

        Raises:
            ScheduleRefusedError: It is not what its id says, or names segments that do not exist.
        """
        if pattern_digest(pattern.operands, pattern.steps) != pattern.id:
            raise ScheduleRefusedError(f"pattern {pattern.id:#x} is not what its id says")
        for step in pattern.steps:
            is_known = step.operand < len(pattern.operands) and pattern.operands[step.operand] in self._forwards
            if not is_known or step.segment >= len(self._forwards[pattern.operands[step.operand]]):
                raise ScheduleRefusedError(f"pattern {pattern.id:#x} names a segment that this rank does not have")
        self._patterns[pattern.id] = pattern

    def admit(self, window: Window) -> Pattern:
        """Return the pattern of a window that may run, and count on its being run.

        Raises:
            StaleFenceError: It was written for another epoch.
            ScheduleRefusedError: It has a gap, names what is not known, or has another digest than its contents.
        """
        if window.fence != self._fence:
            raise StaleFenceError(f"a schedule of epoch {window.fence.epoch} came in epoch {self._fence.epoch}")
        if window.number != self._last_number + 1:
            raise ScheduleRefusedError(f"window {window.number} came after window {self._last_number}")
        pattern = self._patterns.get(window.pattern_id)
        if pattern is None:
            raise ScheduleRefusedError(f"window {window.number} names an unknown pattern {window.pattern_id:#x}")
        if order_digest(pattern.steps, _operands(pattern, window)) != window.order_digest:
            raise ScheduleRefusedError(f"window {window.number} has another order than its digest says")
        self._start_batches(window)
        self._advance(pattern, window)
        self._last_number = window.number
        return pattern

    def _start_batches(self, window: Window) -> None:
        for start in window.batch_starts:
            taken = {slot for _, _, slot in self._in_flight.values()}
            if start.batch_id <= self._last_batch_id or start.kind not in self._forwards:
                raise ScheduleRefusedError(f"batch {start.batch_id} cannot start: its number or kind is wrong")
            if start.slot >= self._num_slots or start.slot in taken:
                raise ScheduleRefusedError(f"batch {start.batch_id} cannot start: slot {start.slot} is not free")
            self._last_batch_id = start.batch_id
            self._in_flight[start.batch_id] = (start.kind, 0, start.slot)

    def _advance(self, pattern: Pattern, window: Window) -> None:
        for step in pattern.steps:
            batch_id = window.batch_ids[step.operand]
            kind, position, slot = self._in_flight.get(batch_id, (None, 0, 0))
            if kind is None or kind is not pattern.operands[step.operand]:
                raise ScheduleRefusedError(f"window {window.number} names batch {batch_id}, which is not in flight so")
            if step.segment != position or step.lane is not self._forwards[kind][position].lane:
                raise ScheduleRefusedError(f"segment {step.segment} of batch {batch_id} came, {position} is due")
            self._in_flight[batch_id] = (kind, position + 1, slot)
            if position + 1 == len(self._forwards[kind]):
                del self._in_flight[batch_id]


def _operands(pattern: Pattern, window: Window) -> tuple[int, ...]:
    if len(window.batch_ids) != len(pattern.operands) or len(set(window.batch_ids)) != len(window.batch_ids):
        raise ScheduleRefusedError(f"window {window.number} needs {len(pattern.operands)} different batches")
    return window.batch_ids
