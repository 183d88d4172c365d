"""Shows how far long work is: a bar on a terminal, a line a phase elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from liger import models


@contextmanager
def shown(name: str) -> Iterator[models.Progress]:
    """Give the function to tell, and show on standard error what it is told."""
    if not sys.stderr.isatty():
        yield _lines(name)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(name, total=1.0)
        yield lambda phase, fraction: bars.update(task, description=f"{name}: {phase}", completed=fraction)


def _lines(name: str) -> models.Progress:
    said = ""

    def tell(phase: str, _fraction: float) -> None:
        nonlocal said
        if phase != said:
            said = phase
            print(f"{name}: {phase}", file=sys.stderr, flush=True)

    return tell
