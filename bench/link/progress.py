"""Tells people how far a run is."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.link.clusters import contestant_names
from bench.link.runs import num_points
from bench.link.settings import Settings


class Teller:
    """A bar with the present step on a terminal, lines elsewhere.

    Args:
        console: Where to tell.
        num_steps: Of the whole run.
    """

    def __init__(self, console: Console, num_steps: int) -> None:
        self._console = console
        columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=num_steps)
        self._num_begun = 0
        self._began_s = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, step: str) -> None:
        """Tell what begins; all before it is done."""
        self._bar.update(self._task, description=step, completed=self._num_begun)
        self._num_begun += 1
        if not self._console.is_terminal:
            self.note(f"{time.monotonic() - self._began_s:4.0f} s  {step}")

    def note(self, line: str) -> None:
        """Tell what came out."""
        self._console.print(line, highlight=False, markup=False)


def num_steps(settings: Settings) -> int:
    """Return how many steps a run has."""
    num_contestants = len(contestant_names(settings))
    points = num_points(settings.strategies, quick=settings.quick)
    return len(settings.loads) * (1 + 2 * num_contestants + settings.rounds * (num_contestants + points))
