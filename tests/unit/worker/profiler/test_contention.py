import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.profiler.contention import MOST, balanced, factors

MS = 1_000_000
ENOUGH = 8 * MS


def test_lanes_that_do_not_feel_each_other_have_factors_of_one():
    assert factors((10 * MS, 10 * MS), (10 * MS, 10 * MS)) == (1.0, 1.0)


def test_compute_that_takes_longer_beside_an_exchange_has_the_ratio():
    compute, exchange = factors((10 * MS, 15 * MS), (15 * MS, 15 * MS))
    assert compute == pytest.approx(1.5)
    assert exchange == 1.0


def test_what_an_exchange_did_alone_at_the_end_is_not_counted():
    # Beside 10 ms of compute the exchange did 5 of its 20 ms, and the other 15 alone.
    compute, exchange = factors((10 * MS, 20 * MS), (10 * MS, 25 * MS))
    assert compute == 1.0
    assert exchange == pytest.approx(2.0)


def test_what_compute_did_alone_at_the_end_is_not_counted():
    compute, exchange = factors((20 * MS, 8 * MS), (22 * MS, 8 * MS))
    assert compute == pytest.approx(8 / 6)
    assert exchange == 1.0


def test_too_short_an_overlap_tells_nothing():
    assert factors((100 * MS, MS), (103 * MS, MS)) == (1.0, 1.0)


@given(*[st.integers(min_value=0, max_value=10**10)] * 4)
def test_factors_are_bounded_whatever_the_clock_says(compute, exchange, computed, exchanged):
    assert all(1.0 <= factor <= MOST for factor in factors((compute, exchange), (computed, exchanged)))


def test_the_shorter_lane_is_run_as_often_as_the_longer_one_takes():
    assert balanced(10 * MS, 3 * MS, ENOUGH) == (1, 4)
    assert balanced(2 * MS, 10 * MS, ENOUGH) == (5, 1)


def test_short_lanes_are_run_until_the_clock_can_tell_and_not_for_ever():
    assert balanced(MS // 2, MS, ENOUGH) == (16, 8)
    assert balanced(MS // 100, MS // 10, ENOUGH) == (64, 7)
    assert balanced(10_000 * MS, 0, ENOUGH) == (1, 64)
