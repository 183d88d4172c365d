import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.pace import Pace
from liger.domain import BatchKind

PREFILL = BatchKind.PREFILL


def paced(sizes, *, floor=1e6, token=1e4):
    pace = Pace()
    for size in sizes:
        pace.observe(PREFILL, size, 1.0, floor + token * size)
    return pace


def test_nothing_is_known_before_something_was_measured():
    pace = Pace()
    assert not pace.is_known(PREFILL)
    pace.observe(PREFILL, 10, 0.5, 0)
    assert not pace.is_known(PREFILL), "ranks that tell no times teach nothing"


def test_a_part_of_a_batch_teaches_as_the_whole_does():
    pace = Pace()
    pace.observe(PREFILL, 100, 0.25, 1e6)
    assert pace.batch_ns(PREFILL, 100) == pytest.approx(4e6)


def test_floor_and_slope_are_told_apart():
    pace = paced([8, 512] * 100)
    assert pace.batch_ns(PREFILL, 2048) == pytest.approx(1e6 + 1e4 * 2048, rel=0.05)
    assert pace.tokens_ns(PREFILL, 2048, 512) == pytest.approx(4 * (1e6 + 1e4 * 512), rel=0.05)


def test_small_batches_alone_do_not_foretell_long_ones():
    pace = paced([8] * 50)
    assert pace.batch_ns(PREFILL, 2000) <= 1e6 + 1e4 * 2000
    assert pace.tokens_ns(PREFILL, 2000, 500) <= 4 * (1e6 + 1e4 * 500)
    assert pace.share_ns(PREFILL, 8) > 0.0


def test_one_pause_of_the_ranks_hides_no_slope():
    pace = paced([8, 512] * 100)
    pace.observe(PREFILL, 8, 1.0, 1e10)
    assert pace.batch_ns(PREFILL, 500) - pace.batch_ns(PREFILL, 400) > 0.5e6


@given(sizes=st.lists(st.integers(1, 4096), min_size=1, max_size=60), size=st.integers(1, 100_000))
def test_times_are_never_negative_and_grow_with_size(sizes, size):
    pace = paced(sizes)
    assert pace.tokens_ns(PREFILL, size, 2048) >= 0.0
    assert 0.0 <= pace.batch_ns(PREFILL, size) <= pace.batch_ns(PREFILL, size + 1) + 1e-3
