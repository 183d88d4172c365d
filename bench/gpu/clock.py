"""Moments of the compute lane: the host's clock on the CPU, events on a device."""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Takes moments of the compute lane."""

    def mark(self) -> Any:
        """Return the moment at which all that was launched until now is done."""
        ...

    def between_ns(self, begin: Any, end: Any) -> float:
        """Return the time between two moments that have passed."""
        ...

    def wait(self) -> None:
        """Wait until all that was launched is done."""
        ...


class HostClock:
    """For the CPU, where a launch returns when it is done. Implements `Clock`."""

    def mark(self) -> int:
        """Return the time."""
        return time.perf_counter_ns()

    def between_ns(self, begin: int, end: int) -> float:
        """Return the time between."""
        return end - begin

    def wait(self) -> None:
        """Do nothing: all is done."""


class DeviceClock:
    """Events on the current stream. Implements `Clock`."""

    def mark(self) -> Any:
        """Record an event."""
        cuda: Any = torch.cuda
        event = cuda.Event(enable_timing=True)
        event.record()
        return event

    def between_ns(self, begin: Any, end: Any) -> float:
        """Return the time between two events."""
        return float(begin.elapsed_time(end)) * 1e6

    def wait(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize()


def make_clock(device: str) -> Clock:
    """Return the clock of a device."""
    return HostClock() if device == "cpu" else DeviceClock()
