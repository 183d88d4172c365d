"""The stopwatch of CPU ranks: what is launched is done when the call returns."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch

from worker.communicator.base import Exchange

_ENOUGH_NS: Final = 8_000_000  # two ticks of a kernel's scheduler


class HostStopwatch:
    """Reads the host's clock. Implements `Stopwatch`; its marks are nanoseconds.

    Args:
        clock_ns: Monotonic nanoseconds.
    """

    runs_later = False
    enough_ns = _ENOUGH_NS

    def __init__(self, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock_ns = clock_ns

    def hold(self, launch_ns: int) -> None:
        """Do nothing: work runs when it is called."""

    def mark(self) -> int:
        """Return the time."""
        return self._clock_ns()

    def beside(self, compute: Callable[[], None], exchanges: Sequence[Exchange]) -> tuple[int, int]:
        """Compute on this thread while another waits for the exchanges."""
        with ThreadPoolExecutor(1, thread_name_prefix="profiler") as waiter:
            exchanged = waiter.submit(self._wait, exchanges)
            compute()
            computed_ns = self._clock_ns()
            return computed_ns, exchanged.result()

    def settle(self) -> int:
        """Do nothing: all is done."""
        return 0

    def between_ns(self, begin: int, end: int) -> int:
        """Return the nanoseconds between two marks."""
        return max(0, end - begin)

    @torch.inference_mode()
    def _wait(self, exchanges: Sequence[Exchange]) -> int:
        for exchange in exchanges:
            exchange.wait()
        return self._clock_ns()
