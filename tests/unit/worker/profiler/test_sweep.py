"""Sweeps on ranks whose work is made up: their clocks go on as their work says."""

from dataclasses import dataclass

import pytest

from worker.communicator.local import LocalCommunicator
from worker.profiler.agreement import Agreement
from worker.profiler.sweep import FEW_RUNS, MOST_RUNS, Sweep, predicted_ns, repetitions

MS = 1_000_000


@dataclass(frozen=True)
class Work:
    family: str
    size: int  # takes so many milliseconds


class Rank:
    def __init__(self) -> None:
        self.now_ns = 7
        self.runs: list[Work] = []

    def prepare(self, cell: Work):
        def run() -> tuple[int, ...]:
            self.runs.append(cell)
            self.now_ns += cell.size * MS
            return (cell.size * MS, len(self.runs))

        return run


def sweep(rank, cells, until_ns, check=lambda: None, report=lambda share: None):
    sweep = Sweep(Agreement(LocalCommunicator()), lambda: rank.now_ns, check)
    return sweep.measure(cells, rank.prepare, until_ns=until_ns, report=report)


def test_all_cells_are_measured_more_than_once_where_there_is_time():
    rank, cells = Rank(), [Work("a", 1), Work("a", 2), Work("b", 2)]
    found = sweep(rank, cells, 1000 * MS)
    assert list(found) == cells
    assert all(len(runs) >= FEW_RUNS for runs in found.values())


def test_every_cell_is_measured_once_where_there_is_time_for_no_more():
    rank, cells = Rank(), [Work("a", size) for size in (10, 20, 40)]
    assert list(map(len, sweep(rank, cells, 75 * MS).values())) == [1, 1, 1]


def test_what_does_not_fit_is_left_out_but_the_first_of_each_family_is_not():
    rank, cells = Rank(), [Work("a", 50), Work("b", 60), Work("a", 100), Work("b", 200)]
    assert list(sweep(rank, cells, 40 * MS)) == cells[:2]


def test_a_slow_start_leaves_out_what_comes_later_but_not_what_is_small():
    rank, cells = Rank(), [Work("a", 5), Work("b", 100), Work("a", 6), Work("b", 110)]
    assert list(sweep(rank, cells, 150 * MS)) == cells[:3]


def test_shares_of_what_is_done_are_reported_from_none_to_all():
    shares = []
    sweep(Rank(), [Work("a", 1), Work("a", 2)], 2 * MS, report=shares.append)
    assert shares == [0.0, 0.25, 0.5, 1.0]


def test_a_sweep_that_is_to_end_ends_between_runs():
    rank = Rank()

    def check() -> None:
        if len(rank.runs) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        sweep(rank, [Work("a", 1)], 1000 * MS, check)
    assert len(rank.runs) == 2


def test_nothing_is_predicted_to_cost_less_than_something_smaller():
    assert predicted_ns(4, 100, 8) == 200
    assert predicted_ns(4, 100, 2) == 100


def test_cheap_cells_are_run_often_dear_ones_seldom_and_those_without_time_not_again():
    assert repetitions(MS // 100, 1000 * MS, 1) == MOST_RUNS
    assert repetitions(100 * MS, 10_000 * MS, 1) == FEW_RUNS
    assert repetitions(100 * MS, 150 * MS, 1) == 1
    assert repetitions(100 * MS, -5, 3) == 0
