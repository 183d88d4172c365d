"""Where a rank's time goes: compute and waits of each window, exchanges whenever they end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from liger.schedule import Step, StepSpan, Window, WindowTimings
from worker.communicator.base import Exchange

ReadTimings = Callable[[], WindowTimings]
"""Tells a window's timings once its outcome may be read."""


class Recorder(Protocol):
    """Times the lanes of one rank; called by the launching thread, in the order of launches."""

    def begin(self, window: Window) -> None:
        """Begin a window."""
        ...

    def wants_steps(self) -> bool:
        """Return whether the window's steps must be launched one by one to be timed."""
        ...

    def begin_step(self) -> None:
        """Note that a step is launched now."""
        ...

    def begin_wait(self) -> None:
        """Note that the compute lane comes to wait for an exchange."""
        ...

    def end_wait(self) -> None:
        """Note that it has it."""
        ...

    def end_step(self, place: int, step: Step, exchange: Exchange | None) -> None:
        """Note that a step at a place of the pattern was launched: compute, or an exchange."""
        ...

    def end_batch(self, operand: int) -> None:
        """Note that what was awaited since `begin_step` was for a batch's results."""
        ...

    def end(self, num_steps: int) -> ReadTimings:
        """End the window, in which so many steps were launched here."""
        ...


@dataclass(frozen=True, slots=True)
class _Pending:
    """An exchange that was still under way when last looked at."""

    window: int
    step: int
    is_timed: bool
    launched_ns: int
    exchange: Exchange


class HostRecorder:
    """Times the lanes of a CPU rank, where compute is done when its launch returns. Implements `Recorder`.

    Args:
        clock_ns: Monotonic nanoseconds; exchanges tell their ends on the same clock.
    """

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self._pending: list[_Pending] = []  # in launch order
        self._lane_free_ns = 0  # when the last exchange ended
        self._spans: list[StepSpan] = []
        self._began_ns = 0  # the step under way
        self._waited_ns = 0  # in it
        self._wait_began_ns = 0

    def begin(self, window: Window) -> None:
        """Begin a window."""
        self._window = window
        self._started_ns = self._clock_ns()
        self._compute_ns = [0] * len(window.batch_ids)
        self._exposed_ns = [0] * len(window.batch_ids)

    def wants_steps(self) -> bool:
        """Return False: here each step is timed in any case."""
        return False

    def begin_step(self) -> None:
        """Note that a step is launched now."""
        self._began_ns, self._waited_ns = self._clock_ns(), 0

    def begin_wait(self) -> None:
        """Note that the launching thread waits."""
        self._wait_began_ns = self._clock_ns()

    def end_wait(self) -> None:
        """Note that the wait is over."""
        self._waited_ns += self._clock_ns() - self._wait_began_ns

    def end_step(self, place: int, step: Step, exchange: Exchange | None) -> None:
        """Note that a step computed until now, or that an exchange is under way."""
        began_ns, window = self._began_ns + self._waited_ns, self._window
        self._exposed_ns[step.operand] += self._waited_ns
        if exchange is not None:
            self._pending.append(_Pending(window.number, place, window.timed, began_ns, exchange))
            return
        ended_ns = self._clock_ns()
        self._compute_ns[step.operand] += ended_ns - began_ns
        if window.timed:
            self._spans.append(StepSpan(window.number, place, began_ns, ended_ns))

    def end_batch(self, operand: int) -> None:
        """Note that the last wait was for a batch's results."""
        self._exposed_ns[operand] += self._waited_ns

    def end(self, num_steps: int) -> ReadTimings:
        """End the window; its timings come with those of the exchanges that ended meanwhile."""
        del num_steps
        communication_ns = self._settle()
        spans, self._spans = tuple(self._spans), []
        timings = WindowTimings(
            started_ns=self._started_ns,
            ended_ns=self._clock_ns(),
            compute_ns=sum(self._compute_ns),
            communication_ns=communication_ns,
            exposed_ns=sum(self._exposed_ns),
            batch_compute_ns=tuple(self._compute_ns),
            batch_exposed_ns=tuple(self._exposed_ns),
            spans=spans,
        )
        return lambda: timings

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
