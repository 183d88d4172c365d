from dataclasses import dataclass

import pytest

from bench.gpu.timing import Ran, full_windows, steady


@dataclass
class Window:
    """What timing reads of a laid window."""

    work: float
    is_full: bool
    ended: tuple[str, ...] = ()


def ran(laid, ends_ns, begins_ns=None) -> Ran:
    begins = begins_ns or (0.0, *ends_ns[:-1])
    return Ran(laid=laid, begins_ns=tuple(begins), ends_ns=tuple(ends_ns), communication_ns=0.0, outcomes={})


def test_begin_and_end_of_a_flow_do_not_count():
    middle = [Window(1.0, True, ("a",)) for _ in range(4)]
    laid = [Window(1.0, True, ("a",)), *middle, Window(1.0, False, ("a",))]
    found = steady(ran(laid, [50.0, 60.0, 70.0, 80.0, 90.0, 200.0]), 1)
    assert full_windows(laid, 1) == range(4)
    assert found.batch_ns == pytest.approx(10.0)
    assert found.idle_share == 0.0


def test_work_under_way_counts_in_part():
    laid = [Window(1.5, True, ("a",)), Window(0.5, True), Window(1.0, True, ("b",)), Window(0.5, True, ("a",))]
    found = steady(ran(laid, [30.0, 40.0, 60.0, 70.0]), 1)
    assert found.batch_ns == pytest.approx(20.0)


def test_time_between_windows_is_idle():
    laid = [Window(1.0, True, ("a",)) for _ in range(3)]
    found = steady(ran(laid, [10.0, 20.0, 30.0], begins_ns=[0.0, 12.0, 21.0]), 1)
    assert found.idle_share == pytest.approx(3 / 20)


def test_a_single_window_is_all_there_is():
    assert steady(ran([Window(2.0, False, ("a",))], [30.0]), 1).batch_ns == pytest.approx(15.0)
