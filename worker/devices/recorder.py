"""Times the lanes of a GPU by its events, which it passes long after they were recorded."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from liger.domain import Lane
from liger.schedule import Step, StepSpan, Window, WindowTimings
from worker.communicator.base import Exchange
from worker.recorder import ReadTimings

_CUDA: Final[Any] = torch.cuda  # torch leaves the types of events out
_NS: Final = 1_000_000  # a millisecond, in which events tell time


@dataclass(frozen=True, slots=True)
class _Shares:
    """How a timed window's time went, as shares of it."""

    compute: tuple[float, ...]  # by operand
    exposed: tuple[float, ...]
    communication: float


@dataclass(slots=True)
class _Mark:
    """A step that was timed."""

    place: int
    operand: int
    lane: Lane
    began: torch.cuda.Event
    ready: torch.cuda.Event | None  # behind a wait for an exchange
    ended: torch.cuda.Event


@dataclass(slots=True)
class _Told:
    """A window whose events were recorded."""

    window: Window
    began: torch.cuda.Event
    ended: torch.cuda.Event
    num_operands: int
    num_steps: int = 0  # launched, or in a graph
    num_seen: int = 0  # of those, launched one by one
    marks: list[_Mark] = field(default_factory=list)


class DeviceRecorder:
    """Times windows on the compute stream, and the steps of those that are to be timed. Implements `Recorder`.

    Events cost a microsecond each on a lane, so windows that are not timed, and those that replay graphs, are timed as
    a whole; how compute and waits share it is taken from the last window of the pattern whose steps were all timed.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock_ns = clock_ns
        self._anchor: torch.cuda.Event | None = None  # an event that has passed, and when; moved on at each reading
        self._anchor_ns = 0
        self._shares: dict[int, _Shares] = {}  # by pattern
        self._seen: set[int] = set()  # patterns of which a timed window was launched step by step
        self._began: torch.cuda.Event | None = None
        self._ready: torch.cuda.Event | None = None

    def begin(self, window: Window) -> None:
        """Begin a window."""
        if self._anchor is None:
            self._anchor, self._anchor_ns = _recorded(), self._clock_ns()
        began = _recorded()
        self._told = _Told(window, began, began, len(window.batch_ids))

    def wants_steps(self) -> bool:
        """Return whether a window is to be timed of whose pattern none was seen step by step yet.

        The same on all ranks, however late each reads its windows: NCCL's exchanges are captured on all or on none.
        """
        return self._told.window.timed and self._told.window.pattern_id not in self._seen

    def begin_step(self) -> None:
        """Note that a step is launched now."""
        if self._is_timed():
            self._began, self._ready = _recorded(), None

    def begin_wait(self) -> None:
        """Do nothing: the lane waits, not this thread."""

    def end_wait(self) -> None:
        """Note where the compute stream has what it waited for."""
        if self._is_timed():
            self._ready = _recorded()

    def end_step(self, place: int, step: Step, exchange: Exchange | None) -> None:
        """Note where a step ends on its lane."""
        if not self._is_timed() or self._began is None:
            return
        self._told.num_seen += 1
        if exchange is None:
            self._told.marks.append(_Mark(place, step.operand, Lane.COMPUTE, self._began, self._ready, _recorded()))
        elif (span := exchange.span) is not None:
            self._told.marks.append(_Mark(place, step.operand, Lane.COMMUNICATION, span[0], None, span[1]))

    def end_batch(self, operand: int) -> None:
        """Do nothing: what is fetched is not waited for."""
        del operand

    def end(self, num_steps: int) -> ReadTimings:
        """End the window."""
        told = self._told
        told.num_steps = num_steps
        if told.window.timed and told.num_seen == num_steps:
            self._seen.add(told.window.pattern_id)
        told.ended = _recorded()
        return lambda: self._read(told)

    def _is_timed(self) -> bool:
        """Return whether steps are timed; what is captured is launched later, and then as a whole."""
        return self._told.window.timed and not torch.cuda.is_current_stream_capturing()

    def _read(self, told: _Told) -> WindowTimings:
        started_ns, ended_ns = self._at(told.began), self._at(told.ended)
        spans = self._spans(told)
        if spans and told.num_seen == told.num_steps:  # exchanges of nothing have no span
            self._shares[told.window.pattern_id] = self._measure(told, spans, ended_ns - started_ns)
        self._anchor, self._anchor_ns = told.began, started_ns
        shares = self._shares.get(told.window.pattern_id) or _unknown(told.num_operands)
        duration_ns = max(0, ended_ns - started_ns)
        compute_ns = tuple(int(share * duration_ns) for share in shares.compute)
        exposed_ns = tuple(int(share * duration_ns) for share in shares.exposed)
        return WindowTimings(
            started_ns=started_ns,
            ended_ns=max(started_ns, ended_ns),
            compute_ns=sum(compute_ns),
            communication_ns=int(shares.communication * duration_ns),
            exposed_ns=sum(exposed_ns),
            batch_compute_ns=compute_ns,
            batch_exposed_ns=exposed_ns,
            spans=tuple(spans),
        )

    def _spans(self, told: _Told) -> list[StepSpan]:
        spans = []
        for mark in told.marks:
            mark.ended.synchronize()  # an exchange may end behind the window
            began_ns, ended_ns = self._at(mark.ready or mark.began), self._at(mark.ended)
            spans.append(StepSpan(told.window.number, mark.place, began_ns, max(began_ns, ended_ns)))
        return spans

    def _measure(self, told: _Told, spans: list[StepSpan], duration_ns: int) -> _Shares:
        compute, exposed, communication = [0] * told.num_operands, [0] * told.num_operands, 0
        for mark, span in zip(told.marks, spans, strict=True):
            if mark.lane is Lane.COMMUNICATION:
                communication += span.end_ns - span.begin_ns
                continue
            compute[mark.operand] += span.end_ns - span.begin_ns
            if mark.ready is not None:
                exposed[mark.operand] += max(0, int(mark.began.elapsed_time(mark.ready) * _NS))
        whole = max(1, duration_ns)
        return _Shares(
            tuple(part / whole for part in compute), tuple(part / whole for part in exposed), communication / whole
        )

    def _at(self, event: torch.cuda.Event) -> int:
        """Return when an event was passed, on the host's clock as it was at the first window."""
        assert self._anchor is not None, "a window began"
        return self._anchor_ns + int(self._anchor.elapsed_time(event) * _NS)


def _recorded() -> torch.cuda.Event:
    event: torch.cuda.Event = _CUDA.Event(enable_timing=True)
    event.record()
    return event


def _unknown(num_operands: int) -> _Shares:
    """Return shares for a pattern that was never timed: all compute, alike for all batches."""
    share = 1.0 / max(1, num_operands)
    return _Shares((share,) * num_operands, (0.0,) * num_operands, 0.0)
