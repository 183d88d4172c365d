import itertools
import statistics

import pytest

from bench.link.work import VOCABULARY_SIZE, Load, draw_arrivals, draw_calls


def test_arrivals_are_those_of_a_poisson_process():
    times = draw_arrivals(50.0, 200.0, "a")
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 200
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert statistics.mean(gaps) == pytest.approx(0.02, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.02, rel=0.08)


def test_draws_are_the_same_for_a_seed_and_others_for_another():
    assert draw_arrivals(5.0, 10.0, "a") == draw_arrivals(5.0, 10.0, "a") != draw_arrivals(5.0, 10.0, "b")
    for load in Load:
        assert draw_calls(load, 5, "a") == draw_calls(load, 5, "a") != draw_calls(load, 5, "b")


@pytest.mark.parametrize("load", list(Load))
def test_calls_spread_over_the_lengths_asked_for(load):
    calls = draw_calls(load, 2000, "a")
    lengths = {len(call.token_ids) for call in calls}
    assert (min(lengths), max(lengths)) == (16, 128)
    assert all(0 < number < VOCABULARY_SIZE for call in calls for number in call.token_ids)
    made = {call.num_new_tokens for call in calls}
    assert made == ({0} if load is Load.DISCRIMINATIVE else set(range(8, 33)))


def test_the_last_token_made_does_not_go_through_the_model():
    embedding, generation = draw_calls(Load.DISCRIMINATIVE, 1, "a")[0], draw_calls(Load.GENERATIVE, 1, "a")[0]
    assert embedding.num_tokens == len(embedding.token_ids)
    assert generation.num_tokens == len(generation.token_ids) + generation.num_new_tokens - 1
