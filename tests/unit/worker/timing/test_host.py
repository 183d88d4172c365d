import threading

import pytest

from liger.errors import GroupFailedError
from worker.communicator.local import DoneExchange
from worker.timing.host import HostStopwatch


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


class HeldExchange(DoneExchange):
    """Is done when it is let go."""

    def __init__(self, free: threading.Event) -> None:
        super().__init__()
        self._free = free

    def wait(self):
        assert self._free.wait(30)
        return ()


class LostExchange(DoneExchange):
    def wait(self):
        raise GroupFailedError("a rank is gone")


def test_marks_are_the_clocks_time():
    clock = Clock()
    watch = HostStopwatch(clock)
    watch.hold(3)
    began = watch.mark()
    clock.now_ns = 7
    ended = watch.mark()
    assert watch.settle() == 0
    assert watch.between_ns(began, ended) == 7
    assert watch.between_ns(ended, began) == 0


def test_compute_goes_on_while_exchanges_are_waited_for():
    clock, free = Clock(), threading.Event()
    watch = HostStopwatch(clock)

    def compute() -> None:
        clock.now_ns += 5
        free.set()  # only now, so that waiting first would never end

    computed, exchanged = watch.beside(compute, [HeldExchange(free)])
    assert computed == 5
    assert exchanged >= 5


def test_an_exchange_that_fails_beside_compute_fails_the_run():
    with pytest.raises(GroupFailedError):
        HostStopwatch().beside(lambda: None, [LostExchange()])
