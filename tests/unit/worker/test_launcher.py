"""What the launching and the reading thread hold on to, and what they tell."""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from liger.domain import BatchKind, Lane
from liger.errors import GroupFailedError
from liger.schedule import Step
from tests.support.forwards import pattern_of, window_of
from worker.launcher import Launcher, WindowRun, read_at_once

LIMIT_S = 20.0
PATTERN = pattern_of([Step(operand=0, segment=0, lane=Lane.COMPUTE)], BatchKind.DECODE)
WINDOW = window_of(PATTERN, 1, (1,))


class Memory:
    """Stands for what an epoch holds."""


def work_on(memory: Memory, done: threading.Event) -> Callable[[], None]:
    return lambda: done.set() if memory else None


def test_a_thread_lets_go_of_work_that_is_done() -> None:
    launcher, memory, done, gone = Launcher(), Memory(), threading.Event(), threading.Event()
    weakref.finalize(memory, gone.set)
    launcher.start()
    launcher.post(work_on(memory, done))
    del memory
    assert done.wait(LIMIT_S)
    assert gone.wait(LIMIT_S)  # though nothing else comes
    launcher.stop()


def test_a_failure_that_nobody_reads_holds_no_memory_of_its_window() -> None:
    told: list[Any] = []
    gone = threading.Event()

    def fail(*_: object) -> Any:
        memory = Memory()
        weakref.finalize(memory, gone.set)
        raise GroupFailedError("a rank is gone")

    WindowRun(fail, told.append, read_at_once)(PATTERN, WINDOW)
    assert gone.is_set()
    with pytest.raises(GroupFailedError, match="a rank is gone"):
        raise told[0]


def test_an_outcome_read_behind_its_epochs_end_is_not_told() -> None:
    told: list[Any] = []

    def read() -> Any:
        windows.is_over = True  # another thread ends the epoch meanwhile
        return "outcome"

    windows = WindowRun(lambda *_: read, told.append, read_at_once)
    windows(PATTERN, WINDOW)
    assert told == []
