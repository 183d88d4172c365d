"""The stopwatch of CUDA ranks: events of the device, read after one wait at the end of a run.

Eager launches take the host longer than small segments take the device. A rank in service is not slowed by that: its
host is ahead, or a graph is replayed. So a run begins with a kernel that only waits, behind which all of it is
launched; the device then goes through it at its own pace. Capturing graphs just to time them would tell the same but
for some hundred nanoseconds a kernel, and would not do for segments whose draws need the host.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from worker.communicator.base import Exchange

_ENOUGH_NS: Final = 2_000_000
_CYCLES_PER_US: Final = 2_200  # of the fastest clock; with a slower one the lane waits longer
_LAUNCH_US: Final = 150.0  # of one segment or exchange, at first
_MOST_LAUNCH_US: Final = 1_000.0
_CUDA: Final[Any] = torch.cuda  # torch's stubs leave some of it untyped


class DeviceStopwatch:
    """Records events on the current stream, which is the compute lane. Implements `Stopwatch`.

    Made on the device that is current, and used by the thread that launches.
    """

    runs_later = True
    enough_ns = _ENOUGH_NS

    def __init__(self) -> None:
        self.was_late = False  # whether the device waited for the host in the last run
        self._launch_us = _LAUNCH_US
        self._watcher = _CUDA.Stream()  # waits for exchanges in the compute lane's place
        self._opened: Any = None

    def hold(self, num_launches: int) -> None:
        """Let the compute lane wait for about as long as the launches take."""
        _CUDA._sleep(int(num_launches * self._launch_us * _CYCLES_PER_US))  # noqa: SLF001 - there is no other name
        self._opened = self.mark()

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

    def settle(self, *, waited: bool = False) -> None:
        """Wait for the device. Runs that were late make the next ones wait for longer."""
        self.was_late = self._opened is not None and not waited and bool(self._opened.query())
        self._opened = None
        _CUDA.synchronize()
        if self.was_late:
            self._launch_us = min(2 * self._launch_us, _MOST_LAUNCH_US)

    def between_ns(self, begin: Any, end: Any) -> int:
        """Return the nanoseconds between two events."""
        milliseconds: float = begin.elapsed_time(end)
        return max(0, round(milliseconds * 1e6))
