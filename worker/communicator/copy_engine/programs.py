"""The protocol as CUDA calls: compiled once for each memory and its rows, then only called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.communicator.base import Span
from worker.communicator.copy_engine.driver import Call, Driver
from worker.communicator.copy_engine.protocol import (
    Await,
    Copy,
    Lane,
    Mark,
    Note,
    Operation,
    Operations,
    Raise,
    Sum,
    Take,
)
from worker.communicator.copy_engine.runtime import Runtime
from worker.communicator.pieces import sum_in_order


@dataclass(frozen=True, slots=True)
class Program:
    """The calls of one exchange, and the event that tells when it is done."""

    begin: tuple[Call, ...]  # lanes wait for what they are given
    calls: tuple[Call, ...]
    done: int


class Lanes:
    """The streams of the communication lane.

    Args:
        driver: Takes the calls.
        runtime: Of the device.
        view: Gives the bytes at an address of this rank's own memory.
    """

    def __init__(self, driver: Driver, runtime: Runtime, view: Callable[[int, int], Tensor]) -> None:
        self._driver = driver
        self._runtime = runtime
        self._view = view
        self.streams = {lane: runtime.new_lane() for lane in Lane}
        self._handles = {lane: stream.cuda_stream for lane, stream in self.streams.items()}
        self._events = {mark: driver.new_event() for mark in (Mark.READY, Mark.SUMMED, Mark.SENT)}

    def compile(self, operations: Operations, done: int, dtype: torch.dtype) -> Program:
        """Return the calls of an exchange of tensors of a dtype; `done` is the event for its end.

        `Mark.PRIOR` is left to `run`, as it differs from call to call.
        """
        wanted = [one for one in operations if not (isinstance(one, Await) and one.mark is Mark.PRIOR)]
        count = next(place for place, one in enumerate(wanted) if not isinstance(one, Await))
        calls = [call for one in wanted for call in self._calls_of(one, done, dtype)]
        return Program(tuple(calls[:count]), tuple(calls[count:]), done)

    def run(self, program: Program, *, caller: int, prior: int | None, timed: bool) -> Span | None:
        """Enqueue an exchange after what the caller's stream has, and after a prior exchange if there is one.

        Raises:
            GroupFailedError: A call failed.
        """
        driver = self._driver
        _do(driver, (driver.note(caller, self._events[Mark.READY]),))
        if prior is not None:
            _do(driver, (driver.wait_for(self._handles[Lane.SEND], prior),))
        _do(driver, program.begin)
        if not timed:
            _do(driver, program.calls)
            return None
        began, ended = self._runtime.new_span()
        began.record(self.streams[Lane.RECEIVE])
        _do(driver, program.calls)
        ended.record(self.streams[Lane.RECEIVE])
        return began, ended

    def close(self) -> None:
        """Let go of events."""
        for event in self._events.values():
            self._driver.free_event(event)

    def _calls_of(self, one: Operation, done: int, dtype: torch.dtype) -> Sequence[Call]:
        driver, stream = self._driver, self._handles[one.lane]
        match one:
            case Await(mark=mark):
                return (driver.wait_for(stream, self._events[mark]),)
            case Note(mark=mark):
                return (driver.note(stream, done if mark is Mark.DONE else self._events[mark]),)
            case Raise(flag=flag):
                return (driver.write(stream, flag, 1),)
            case Take(flag=flag):
                return driver.wait(stream, flag), driver.write(stream, flag, 0)
            case Copy(target=target, source=source, num_bytes=num_bytes):
                return (driver.copy(stream, target, source, num_bytes),)
            case Sum(target=target, sources=sources, num_bytes=num_bytes):
                total = self._view(target, num_bytes).view(dtype)
                addends = [self._view(source, num_bytes).view(dtype) for source in sources]
                return ((self._sum, (self.streams[one.lane], total, addends)),)

    def _sum(self, stream: Any, total: Tensor, addends: Sequence[Tensor]) -> int:
        with self._runtime.on(stream):
            sum_in_order(addends, total)
        return 0


def _do(driver: Driver, calls: Sequence[Call]) -> None:
    for function, arguments in calls:
        status = function(*arguments)
        if status:
            driver.check(status)
