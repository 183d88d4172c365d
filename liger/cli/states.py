"""Shows how groups come up: lines that change on a terminal, new lines elsewhere."""

from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from liger.cli.tables import phase
from liger.cluster_state import ClusterState, GroupPhase, GroupState


class GroupLines:
    """One state line a group, while the context lasts.

    Args:
        names: The groups that will be.
        console: Where to write.
    """

    def __init__(self, names: Iterable[str], console: Console) -> None:
        self._console = console
        self._lines = {name: f"{escape(name)}  [dim]starting its workers[/dim]" for name in names}
        self._live = Live(self._rendered(), console=console, refresh_per_second=8) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, state: ClusterState) -> None:
        """Show the groups of a state; what did not change is not said again (new lines tell progress by quarters)."""
        for group in state.groups:
            step = group if self._live else replace(group, progress=group.progress * 4 // 1 / 4)
            line = group_line(step)
            if self._lines.get(group.name) == line:
                continue
            self._lines[group.name] = line
            if not self._live:
                self._console.print(line, highlight=False, soft_wrap=True)
        if self._live:
            self._live.update(self._rendered())

    def _rendered(self) -> Group:
        return Group(*(Text.from_markup(line) for line in self._lines.values()))


def group_line(group: GroupState) -> str:
    """Return a group's state as one line of markup."""
    parts = [escape(group.name), phase(group), f"{len(group.ranks)}/{group.world_size} ranks"]
    if group.phase is GroupPhase.SERVING:
        devices = ", ".join(sorted({rank.device for rank in group.ranks if rank.device}))
        parts += [f"epoch {group.epoch}", escape(devices)]
    return "  ".join(part for part in (*parts, f"[dim]{escape(group.detail)}[/dim]" if group.detail else "") if part)
