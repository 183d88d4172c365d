from dataclasses import replace

import pytest

from controller.timeline import Timeline
from tests.support.plans import ALL_REDUCE, MLP, span


def add(timeline, rank, spans):
    timeline.add(rank, spans, max(each.end_ns for each in spans))


def batch_ids(timeline, seconds):
    return [(each.rank, each.batch_id) for each in timeline.last(seconds)]


def test_spans_come_back_by_rank_and_begin():
    timeline = Timeline()
    add(timeline, 1, [span(1, MLP, 0, 5, rank=1), span(2, ALL_REDUCE, 2, 3, rank=1)])
    add(timeline, 0, [span(3, MLP, 4, 6), span(4, MLP, 1, 2)])
    assert batch_ids(timeline, 60) == [(0, 4), (0, 3), (1, 1), (1, 2)]


def test_a_span_comes_back_whole():
    whole = replace(span(7, ALL_REDUCE, 3, 9, rank=2, piece=1, num_pieces=3, num_tokens=64, window=5), layer=4)
    timeline = Timeline()
    add(timeline, 2, [whole])
    assert timeline.last(60) == timeline.copy().last(60) == (whole,)


def test_how_far_back_counts_from_the_newest_end_of_each_rank():
    timeline = Timeline()
    add(timeline, 0, [span(1, MLP, 0, 1000), span(2, MLP, 2900, 3000)])
    add(timeline, 1, [span(1, MLP, 9e9, 9e9 + 1000, rank=1), span(2, MLP, 9e9 + 1000, 9e9 + 2500, rank=1)])
    assert batch_ids(timeline, 1.9) == [(0, 2), (1, 1), (1, 2)]
    assert batch_ids(timeline, 2.0) == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_what_ended_long_ago_is_forgotten():
    timeline = Timeline(keep_s=1.0)
    add(timeline, 0, [span(1, MLP, 0, 10), span(2, MLP, 10, 900)])
    add(timeline, 0, [span(3, MLP, 1000, 1500)])
    assert batch_ids(timeline, 60) == [(0, 2), (0, 3)]


@pytest.mark.parametrize("seconds", [1.0, 60.0, 1e300])
def test_one_that_comes_late_is_not_told_when_it_is_too_old(seconds):
    timeline = Timeline(keep_s=1.0)
    add(timeline, 0, [span(1, MLP, 4000, 5000), span(2, ALL_REDUCE, 0, 10)])
    assert batch_ids(timeline, seconds) == [(0, 1)]


def test_memory_is_bounded():
    timeline = Timeline(max_spans=3)
    for number in range(10):
        add(timeline, 0, [span(number, MLP, number, number + 1)])
    assert batch_ids(timeline, 60) == [(0, 7), (0, 8), (0, 9)]


def test_a_new_epoch_begins_with_nothing_and_may_have_an_earlier_clock():
    timeline = Timeline()
    add(timeline, 0, [span(1, MLP, 9e6, 9e6 + 1)])
    timeline.clear()
    add(timeline, 0, [span(2, MLP, 0, 1)])
    assert batch_ids(timeline, 60) == [(0, 2)]


def test_an_empty_timeline_tells_nothing():
    assert Timeline().last(60) == ()
