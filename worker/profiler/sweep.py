"""Measures many cells within a time, all that fit once and then again as often as it allows; all ranks decide alike.

Ranks that measure together meet in exchanges, so each must run the same cells as often as the others: what a cell costs
and how late it is are the slowest rank's, told by all to all after each cell.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from worker.profiler.agreement import Agreement

ENOUGH_NS: Final = 2_000_000  # a cell whose runs took so long is known well enough
MOST_RUNS: Final = 9  # of a cell beside its first
FEW_RUNS: Final = 2  # where enough time is less than so many


class Cell(Protocol):
    """Something to measure."""

    @property
    def family(self) -> str:
        """What is common to cells whose times grow with their size."""
        ...

    @property
    def size(self) -> int:
        """What the time is about proportional to; positive."""
        ...


CellT = TypeVar("CellT", bound=Cell)
Run = Callable[[], tuple[int, ...]]
"""Measures a cell once."""
Runs = list[tuple[int, ...]]
"""What a cell's runs gave."""


class Sweep:
    """One rank's part in measuring together.

    Args:
        agreement: With the other ranks.
        clock_ns: Monotonic nanoseconds.
        check: Raises if measuring is to end.
    """

    def __init__(self, agreement: Agreement, clock_ns: Callable[[], int], check: Callable[[], None]) -> None:
        self._agreement = agreement
        self._clock_ns = clock_ns
        self._check = check
        self._started_ns = clock_ns()
        self.now_ns = 0  # since the start; the slowest rank's, the same on all

    def measure(
        self,
        cells: Sequence[CellT],
        prepare: Callable[[CellT], Run],
        *,
        until_ns: int,
        report: Callable[[float], None],
    ) -> dict[CellT, Runs]:
        """Return what this rank measured of all cells that fit in the time, and for the first of each family.

        Args:
            cells: By growing size; what is small is measured first.
            prepare: Makes a cell ready to be run.
            until_ns: When to end, since the sweep began.
            report: Takes the share of cells that are done.
        """
        found: dict[CellT, Runs] = {}
        costs: dict[CellT, int] = {}
        latest: dict[str, CellT] = {}  # by family
        for place, cell in enumerate(cells):
            self._check()
            report(place / len(cells) / 2)
            before = latest.get(cell.family)
            if before and self.now_ns + predicted_ns(before.size, costs[before], cell.size) > until_ns:
                continue
            found[cell], costs[cell] = self._measure_first(prepare, cell)
            latest[cell.family] = cell
        for place, cell in enumerate(found):
            report((1 + place / len(found)) / 2)
            num_runs = repetitions(costs[cell], until_ns - self.now_ns, len(found) - place)
            if num_runs:
                found[cell] = self._measure_again(prepare, cell, found[cell], num_runs)
        report(1.0)
        return found

    def _measure_first(self, prepare: Callable[[CellT], Run], cell: CellT) -> tuple[Runs, int]:
        """Return what one run gives on this rank and what it costs on the slowest."""
        began_ns = self._clock_ns()
        first = prepare(cell)()
        ended_ns = self._clock_ns()
        cost_ns, self.now_ns = self._agreement.slowest((ended_ns - began_ns, ended_ns - self._started_ns))
        return [first], cost_ns

    def _measure_again(self, prepare: Callable[[CellT], Run], cell: CellT, runs: Runs, num_runs: int) -> Runs:
        """Return what more runs give on this rank, with the runs before where they are still few."""
        run = prepare(cell)
        again = []
        for _ in range(num_runs):
            self._check()
            again.append(run())
        (self.now_ns,) = self._agreement.slowest((self._clock_ns() - self._started_ns,))
        return again if num_runs > FEW_RUNS else runs + again  # a first run is slower than those after it


def predicted_ns(known_size: int, cost_ns: int, size: int) -> int:
    """Return what a cell of a size may cost, from the size and cost of a smaller one of its family."""
    return max(cost_ns, cost_ns * size // known_size)


def repetitions(cost_ns: int, left_ns: int, num_left: int) -> int:
    """Return how often a cell is run beside its first, from its cost and the time left for it and those after it."""
    cost_ns = max(1, cost_ns)
    wanted = min(MOST_RUNS, max(FEW_RUNS, ENOUGH_NS // cost_ns))
    return max(0, min(wanted, left_ns // max(1, num_left) // cost_ns))
