"""The one launching thread of a rank: all that computes runs there, in order, and never waits for the gRPC loop.

One thread, because OpenMP keeps a team of threads for each thread that computes, and teams that together outnumber the
cores sleep and wake at every matrix product (measured: 1.6 times slower with a second, idle team).
"""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from liger.errors import LigerError
from liger.schedule import Pattern, Window, WindowOutcome
from worker.rank import ReadOutcome

_LOG: Final = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")
Report = Callable[[WindowOutcome | LigerError], None]


class Launcher:
    """Runs work on a thread of its own, in the order in which it comes.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str = "launcher") -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin to take work."""
        self._thread.start()

    def post(self, work: Callable[[], None]) -> None:
        """Queue work that tells its end itself and raises nothing."""
        self._work.put(work)

    def call(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """Queue work and return what will come of it."""
        future: Future[ResultT] = Future()
        self._work.put(lambda: _settle(future, work))
        return future

    def stop(self) -> None:
        """End the thread after what is queued; does not wait."""
        self._work.put(None)

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # or it would hold an epoch's memory, through the last outcome, until the next epoch's first


class WindowRun:
    """The windows of one epoch, until one fails.

    Args:
        run: Launches a window; what it returns tells the outcome, waiting until the device has done with it.
        report: Takes what came of each window, or the failure that ended it all.
        read: Runs what reads an outcome, in order: at once, or on a thread of its own where the device is behind.
    """

    def __init__(
        self, run: Callable[[Pattern, Window], ReadOutcome], report: Report, read: Callable[[Callable[[], None]], None]
    ) -> None:
        self._run = run
        self._report = report
        self._read = read
        self.is_over = False  # set to skip what is still queued

    def __call__(self, pattern: Pattern, window: Window) -> None:
        """Launch one window, unless one before it failed."""
        if self.is_over:
            return
        outcome = self._guarded(window, lambda: self._run(pattern, window))
        if outcome is not None:
            self._read(lambda: self._tell(window, outcome))

    def _tell(self, window: Window, outcome: ReadOutcome) -> None:
        if self.is_over:
            return
        told = self._guarded(window, outcome)
        if told is not None and not self.is_over:  # which it may have become while the device was behind
            self._report(told)

    def _guarded(self, window: Window, work: Callable[[], ResultT]) -> ResultT | None:
        """Return what work gives; None if it failed, which ends the epoch and is reported."""
        try:
            return work()
        except LigerError as error:
            self._fail(error.with_traceback(None))  # whose frames hold the epoch's memory as long as it is not told
        except Exception as error:  # noqa: BLE001 - whatever it is, the epoch ends and says so
            _LOG.exception("window %d failed inside", window.number)
            self._fail(LigerError(f"window {window.number} failed inside: {type(error).__name__}: {error}"))
        return None

    def _fail(self, error: LigerError) -> None:
        if not self.is_over:
            self.is_over = True
            self._report(error)


def read_at_once(work: Callable[[], None]) -> None:
    """Read an outcome on the launching thread, where compute is done when its launch returns."""
    work()


def _settle(future: Future[ResultT], work: Callable[[], ResultT]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
        future.set_exception(error)
