"""Lets only windows through that this rank may run: right epoch, no gap, known pattern and batches, right digest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from liger.digest import order_digest, pattern_digest
from liger.domain import BatchKind, Fence
from liger.errors import ScheduleRefusedError, StaleFenceError
from liger.schedule import MAX_PATTERNS, BatchStart, Pattern, Segment, Window
from worker.kv_hazards import KvHazards
from worker.walk import Walk

_MOST_KNOWN_WALKS: Final = 4096


@dataclass(slots=True)
class _Flight:
    kind: BatchKind
    slot: int
    position: int = 0  # the next segment of its forward


class WindowGuard:
    """Follows one epoch's windows, the steps of all ranks included.

    Args:
        fence: The epoch's.
        forwards: The segments of each kind of batch, of all stages.
        num_slots: Batches in flight at once, at most.
        tp_size: Ranks of each stage.
        pp_size: Stages.
        hazards: Watches KV blocks too, for debugging; None for not.
    """

    def __init__(
        self,
        *,
        fence: Fence,
        forwards: Mapping[BatchKind, tuple[Segment, ...]],
        num_slots: int,
        tp_size: int = 1,
        pp_size: int = 1,
        hazards: KvHazards | None = None,
    ) -> None:
        self._fence = fence
        self._forwards = forwards
        self._num_slots = num_slots
        self._hazards = hazards
        stages = [tuple(range(stage * tp_size, (stage + 1) * tp_size)) for stage in range(pp_size)]
        self._participants = stages if pp_size > 1 else [()]  # by stage
        self._patterns: dict[int, Pattern] = {}
        self._last_number = 0
        self._last_batch_id = 0
        self._in_flight: dict[int, _Flight] = {}  # by batch id
        self._walks: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = {}  # see _walk

    def learn(self, pattern: Pattern) -> None:
        """Keep a pattern for later windows.

        Raises:
            ScheduleRefusedError: It is not what its id says, or names segments or pieces that do not exist.
        """
        if pattern_digest(pattern.operands, pattern.steps) != pattern.id:
            raise ScheduleRefusedError(f"pattern {pattern.id:#x} is not what its id says")
        for step in pattern.steps:
            is_known = 0 <= step.operand < len(pattern.operands) and pattern.operands[step.operand] in self._forwards
            if not is_known or not 0 <= step.segment < len(self._forwards[pattern.operands[step.operand]]):
                raise ScheduleRefusedError(f"pattern {pattern.id:#x} names a segment that this rank does not have")
            if step.piece is not None and not 0 <= step.piece.index < step.piece.count:
                raise ScheduleRefusedError(f"pattern {pattern.id:#x} names a piece that does not exist")
        self._patterns.setdefault(pattern.id, pattern)
        if len(self._patterns) > MAX_PATTERNS:
            del self._patterns[next(iter(self._patterns))]  # the controller sends it again if need be

    def admit(self, window: Window) -> Pattern:
        """Return the pattern of a window that may run, and count on its being run.

        Raises:
            StaleFenceError: It was written for another epoch.
            ScheduleRefusedError: It has a gap, names what is not known or not due, or has another digest than its
                contents.
        """
        if window.fence != self._fence:
            raise StaleFenceError(f"a schedule of epoch {window.fence.epoch} came in epoch {self._fence.epoch}")
        if window.number != self._last_number + 1:
            raise ScheduleRefusedError(f"window {window.number} came after window {self._last_number}")
        pattern = self._patterns.get(window.pattern_id)
        if pattern is None:
            raise ScheduleRefusedError(f"window {window.number} names an unknown pattern {window.pattern_id:#x}")
        if order_digest(pattern.id, window.batch_ids) != window.order_digest:
            raise ScheduleRefusedError(f"window {window.number} has another order than its digest says")
        for start in window.batch_starts:
            self._start(start)
        if self._hazards is not None:
            self._hazards.begin(window)
        self._advance(pattern, window)
        self._last_number = window.number
        return pattern

    def _start(self, start: BatchStart) -> None:
        if start.batch_id <= self._last_batch_id or start.kind not in self._forwards:
            raise ScheduleRefusedError(f"batch {start.batch_id} cannot start: its number or kind is wrong")
        if start.slot >= self._num_slots or any(flight.slot == start.slot for flight in self._in_flight.values()):
            raise ScheduleRefusedError(f"batch {start.batch_id} cannot start: slot {start.slot} is not free")
        self._last_batch_id = start.batch_id
        self._in_flight[start.batch_id] = _Flight(start.kind, start.slot)

    def _advance(self, pattern: Pattern, window: Window) -> None:
        flights = self._operands(pattern, window)
        ends = self._walk(pattern, tuple(flight.position for flight in flights))
        for batch_id, flight, end in zip(window.batch_ids, flights, ends, strict=True):
            flight.position = end
            if end == len(self._forwards[flight.kind]):
                del self._in_flight[batch_id]
                if self._hazards is not None:
                    self._hazards.end(batch_id)

    def _operands(self, pattern: Pattern, window: Window) -> list[_Flight]:
        ids = window.batch_ids
        if len(ids) != len(pattern.operands) or len(set(ids)) != len(ids):
            raise ScheduleRefusedError(f"window {window.number} needs {len(pattern.operands)} different batches")
        flights = [self._in_flight.get(batch_id) for batch_id in ids]
        known = [flight for flight in flights if flight is not None]
        if tuple(flight.kind for flight in known) != pattern.operands:
            raise ScheduleRefusedError(f"window {window.number} names batches {ids}, which are not in flight so")
        return known

    def _walk(self, pattern: Pattern, begins: tuple[int, ...]) -> tuple[int, ...]:
        """Return where a pattern brings batches that stand at `begins`; what was found once is kept."""
        key = (pattern.id, begins)
        if key not in self._walks:
            if len(self._walks) >= _MOST_KNOWN_WALKS:
                self._walks.clear()
            self._walks[key] = self._walk_anew(pattern, begins)
        return self._walks[key]

    def _walk_anew(self, pattern: Pattern, begins: tuple[int, ...]) -> tuple[int, ...]:
        walks = [Walk(self._forwards[kind], begin) for kind, begin in zip(pattern.operands, begins, strict=True)]
        for step in pattern.steps:
            segment = walks[step.operand].advance(begins[step.operand] + step.segment, step.piece)
            if step.lane is not segment.lane:
                raise ScheduleRefusedError(f"a segment of kind {segment.kind.name} came on lane {step.lane.name}")
            if step.participants != self._participants[segment.stage]:
                raise ScheduleRefusedError(f"ranks {step.participants} cannot run a segment of stage {segment.stage}")
        if any(walk.is_half for walk in walks):
            raise ScheduleRefusedError(f"pattern {pattern.id:#x} leaves a segment half launched")
        return tuple(walk.position for walk in walks)
