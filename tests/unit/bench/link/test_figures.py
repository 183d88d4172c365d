import math

import pytest

from bench.link.figures import Answer, closed_loop_figures, open_loop_figures, percentile


def answer(scheduled_s: float, ended_s: float, **values) -> Answer:
    return Answer(scheduled_s=scheduled_s, ended_s=ended_s, **{"num_tokens": 10, **values})


def test_percentiles_lie_between_the_nearest_values():
    values = [4.0, 1.0, 3.0, 2.0, 5.0]
    assert percentile(values, 0) == 1
    assert percentile(values, 50) == 3
    assert percentile(values, 90) == pytest.approx(4.6)
    assert percentile(values, 100) == 5
    assert percentile([7.0], 99) == 7


def test_latency_counts_from_when_a_call_was_to_be_sent():
    found = open_loop_figures([answer(1.0, 1.5), answer(2.0, 3.0)])
    assert found.mean_s == pytest.approx(0.75)
    assert found.calls_per_s == pytest.approx(2 / 3)
    assert found.tokens_per_s == pytest.approx(20 / 3)


def test_failed_calls_are_counted_and_give_no_latency():
    found = open_loop_figures([answer(0.0, 1.0), answer(0.0, 60.0, error="too late", num_tokens=0)])
    assert (found.num_calls, found.num_failed, found.error) == (2, 1, "too late")
    assert found.p99_s == 1
    assert found.calls_per_s == 1


def test_a_point_at_which_all_failed_has_no_latency():
    found = open_loop_figures([answer(0.0, 1.0, error="gone")])
    assert math.isnan(found.p90_s)
    assert found.tokens_per_s == 0


def test_times_inside_calls_are_means():
    found = open_loop_figures([answer(0, 1, compute_ns=2, exposed_ns=4, depth=1), answer(0, 1, compute_ns=4, depth=2)])
    assert (found.compute_s, found.exposed_s, found.depth) == (3e-9, 2e-9, 1.5)


@pytest.mark.parametrize("jitter_s", [0.0, 0.004])
def test_throughput_under_constant_work_is_taken_between_ends_of_batches(jitter_s):
    """Batches of 4 every second, after a first one that is small and slow; the last one comes late."""
    first = [answer(0, 3.0)]
    full = [answer(0, 4.0 + batch + jitter_s * place) for batch in range(20) for place in range(4)]
    last = [answer(0, 40.0)]
    found = closed_loop_figures([*last, *full, *first], num_outstanding=8)
    assert found.calls_per_s == pytest.approx(4.0)
    assert found.tokens_per_s == pytest.approx(40.0)
    assert found.num_calls == 82


def test_too_few_answers_for_a_middle_all_count():
    answers = [answer(0, 1.0), answer(0, 2.0)]
    assert closed_loop_figures(answers, num_outstanding=8) == open_loop_figures(answers)
