"""The stopwatch of CUDA ranks: events of the device, read after one wait at the end of a run.

Eager launches take the host longer than small segments take the device. A rank in service is not slowed by that: its
host is ahead, or a graph is replayed. So a run begins with a kernel that only waits, behind which all of it is
launched; the device then goes through it at its own pace. Capturing graphs just to time them would tell the same but
for some hundred nanoseconds a kernel, and would not do for segments whose draws need the host.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from worker.communicator.base import Exchange

_ENOUGH_NS: Final = 2_000_000
_CYCLES_PER_US: Final = 2_200  # of the fastest clock; with a slower one the lane waits longer
_CUDA: Final[Any] = torch.cuda  # torch's stubs leave some of it untyped


class DeviceStopwatch:
    """Records events on the current stream, which is the compute lane. Implements `Stopwatch`.

    Made on the device that is current, and used by the thread that launches.

    Args:
        clock_ns: The host's monotonic nanoseconds.
    """

    runs_later = True
    enough_ns = _ENOUGH_NS

    def __init__(self, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.was_late = False  # whether launching the last run took longer than the lane was held
        self._clock_ns = clock_ns
        self._watcher = _CUDA.Stream()  # waits for exchanges in the compute lane's place
        self._opened: Any = None
        self._held_ns = 0  # when it began, on the host

    def hold(self, launch_ns: int) -> None:
        """Let the compute lane wait for about as long as the launches take."""
        _CUDA._sleep(launch_ns * _CYCLES_PER_US // 1_000)  # noqa: SLF001 - there is no other name
        self._opened = self.mark()
        self._held_ns = self._clock_ns()

    def mark(self) -> Any:
        """Record an event on the compute lane."""
        event = _CUDA.Event(enable_timing=True)
        event.record()
        return event

    def beside(self, compute: Callable[[], None], exchanges: Sequence[Exchange]) -> tuple[Any, Any]:
        """Launch compute; a stream of its own waits for the exchanges."""
        compute()
        computed = self.mark()
        with _CUDA.stream(self._watcher):
            for exchange in exchanges:
                exchange.wait()
            return computed, self.mark()

    def settle(self) -> int:
        """Wait for the device; return how long launching took, with any wait for the device in it."""
        launched_ns = self._clock_ns() - self._held_ns
        self.was_late = bool(self._opened.query())
        _CUDA.synchronize()
        return launched_ns

    def between_ns(self, begin: Any, end: Any) -> int:
        """Return the nanoseconds between two events."""
        milliseconds: float = begin.elapsed_time(end)
        return max(0, round(milliseconds * 1e6))
