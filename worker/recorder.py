"""Where a rank's time goes: compute and waits of each window, exchanges whenever they end."""

from collections.abc import Callable
from dataclasses import dataclass

from liger.schedule import Step, StepSpan, Window, WindowTimings
from worker.communicator.base import Exchange


@dataclass(frozen=True, slots=True)
class _Pending:
    """An exchange that was still under way when last looked at."""

    window: int
    step: int
    is_timed: bool
    launched_ns: int
    exchange: Exchange


class Recorder:
    """Times the lanes of one rank.

    Args:
        clock_ns: Monotonic nanoseconds; exchanges tell their ends on the same clock.
    """

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self._pending: list[_Pending] = []  # in launch order
        self._lane_free_ns = 0  # when the last exchange ended
        self._spans: list[StepSpan] = []

    def begin(self, window: Window) -> None:
        """Begin a window."""
        self._window = window
        self._started_ns = self._clock_ns()
        self._compute_ns = [0] * len(window.batch_ids)
        self._exposed_ns = [0] * len(window.batch_ids)

    def add_compute(self, place: int, step: Step, began_ns: int) -> None:
        """Note that a step at a place of the pattern computed until now."""
        ended_ns = self._clock_ns()
        self._compute_ns[step.operand] += ended_ns - began_ns
        if self._window.timed:
            self._spans.append(StepSpan(self._window.number, place, began_ns, ended_ns))

    def add_exchange(self, place: int, launched_ns: int, exchange: Exchange) -> None:
        """Note that a step at a place of the pattern is under way."""
        window = self._window
        self._pending.append(_Pending(window.number, place, window.timed, launched_ns, exchange))

    def add_wait(self, operand: int, waited_ns: int) -> None:
        """Note that the launching thread waited for an exchange of a batch."""
        self._exposed_ns[operand] += waited_ns

    def end(self) -> WindowTimings:
        """End the window and return its timings, with those of the exchanges that ended meanwhile."""
        communication_ns = self._settle()
        spans, self._spans = tuple(self._spans), []
        return WindowTimings(
            started_ns=self._started_ns,
            ended_ns=self._clock_ns(),
            compute_ns=sum(self._compute_ns),
            communication_ns=communication_ns,
            exposed_ns=sum(self._exposed_ns),
            batch_compute_ns=tuple(self._compute_ns),
            batch_exposed_ns=tuple(self._exposed_ns),
            spans=spans,
        )

    def _settle(self) -> int:
        """Note the exchanges that have ended; return how long the lane was busy with them.

        The lane counts as one: what ends after another is charged from the end of that, though Gloo may have run two
        side by side, each at a part of the link's rate.
        """
        busy_ns, pending = 0, []
        for one in self._pending:
            done_ns = one.exchange.ended_ns
            if done_ns is None:
                pending.append(one)
                continue
            began_ns = max(one.launched_ns, self._lane_free_ns)
            ended_ns = max(began_ns, done_ns)
            self._lane_free_ns = max(self._lane_free_ns, ended_ns)
            busy_ns += ended_ns - began_ns
            if one.is_timed:
                self._spans.append(StepSpan(one.window, one.step, began_ns, ended_ns))
        self._pending = pending
        return busy_ns
