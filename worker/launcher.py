"""The one launching thread of a rank: takes windows in order, never waits for the gRPC loop."""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Final

from liger.errors import LigerError
from liger.schedule import Pattern, Window, WindowOutcome

_LOG: Final = logging.getLogger(__name__)

Report = Callable[[WindowOutcome | LigerError], None]


class Launcher:
    """Runs windows on a thread of its own until one fails or it is stopped.

    Args:
        run: Executes a window.
        report: Takes what came of each window, or the failure that ended it all; called from the thread.
    """

    def __init__(self, run: Callable[[Pattern, Window], WindowOutcome], report: Report) -> None:
        self._run = run
        self._report = report
        self._windows: queue.SimpleQueue[tuple[Pattern, Window] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="launcher", daemon=True)

    def start(self) -> None:
        """Begin to take windows."""
        self._thread.start()

    def launch(self, pattern: Pattern, window: Window) -> None:
        """Queue a window."""
        self._windows.put((pattern, window))

    def stop(self, limit_s: float) -> bool:
        """Take no more windows; return whether the thread ended within the limit."""
        self._windows.put(None)
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while (work := self._windows.get()) is not None:
            try:
                self._report(self._run(*work))
            except LigerError as error:
                self._report(error)
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the epoch ends and says so
                _LOG.exception("window %d failed inside", work[1].number)
                self._report(LigerError(f"window {work[1].number} failed inside: {type(error).__name__}: {error}"))
                return
