"""Adds up what the controller's work takes, part by part and decode step by decode step."""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

OTHERS: Final = "others"
"""What stands in for ranks and gateways, and is no work of the controller."""

LEAST_STEPS: Final = 10  # to warm up, and again to measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one way of running the controller took, in CPU time: others on the machine disturb that little."""

    name: str
    num_steps: int  # decode steps measured: one token of every running sequence
    windows_per_step: float
    tokens_per_s: float  # of control time: what one core gives that does nothing else
    median_ms: float  # control time of a step
    p99_ms: float
    parts_ms: Mapping[str, float]  # mean of a step, by part


class Meter:
    """Divides this thread's CPU time into parts.

    Args:
        num_sequences: Tokens of a decode step.
        seconds: How long to measure, after as long to warm up: plans are searched for and caches fill.
        rest: The part to which time goes that `part` gives to no other.
    """

    def __init__(self, num_sequences: int, seconds: float, rest: str) -> None:
        self._num_sequences = num_sequences
        self._warm_until_s = time.monotonic() + seconds
        self._until_s = self._warm_until_s + seconds
        self._num_warm_steps = 0
        self._num_windows = 0
        self._num_tokens = 0  # of the present step
        self._part = rest
        self._since_ns = time.thread_time_ns()
        self._step_ns: defaultdict[str, int] = defaultdict(int)  # of the present step, by part
        self._steps_ns: list[int] = []
        self._parts_ns: defaultdict[str, int] = defaultdict(int)

    @property
    def is_done(self) -> bool:
        """Whether enough is measured."""
        return time.monotonic() >= self._until_s and len(self._steps_ns) >= LEAST_STEPS

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the time of a block, in which nothing is awaited, to a part."""
        before = self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def made(self, num_tokens: int) -> None:
        """Count a window and the tokens that came of it."""
        self._num_windows += self._is_warm()
        self._num_tokens += num_tokens
        if self._num_tokens >= self._num_sequences:
            self._num_tokens -= self._num_sequences
            self._end_step()

    def figures(self, name: str) -> Figures:
        """Return what was measured, once `is_done`."""
        num_steps = len(self._steps_ns)
        return Figures(
            name=name,
            num_steps=num_steps,
            windows_per_step=self._num_windows / num_steps,
            tokens_per_s=num_steps * self._num_sequences / (sum(self._steps_ns) / 1e9),
            median_ms=statistics.median(self._steps_ns) / 1e6,
            p99_ms=statistics.quantiles(self._steps_ns, n=100)[-1] / 1e6,
            parts_ms={part: ns / num_steps / 1e6 for part, ns in self._parts_ns.items()},
        )

    def _switch(self, part: str) -> str:
        now_ns = time.thread_time_ns()
        self._step_ns[self._part] += now_ns - self._since_ns
        self._since_ns = now_ns
        before, self._part = self._part, part
        return before

    def _is_warm(self) -> bool:
        return self._num_warm_steps >= LEAST_STEPS and time.monotonic() >= self._warm_until_s

    def _end_step(self) -> None:
        self._switch(self._part)
        self._step_ns.pop(OTHERS, None)
        if not self._is_warm():
            self._num_warm_steps += 1
        else:
            self._steps_ns.append(sum(self._step_ns.values()))
            for part, ns in self._step_ns.items():
                self._parts_ns[part] += ns
        self._step_ns.clear()
