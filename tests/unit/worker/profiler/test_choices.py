from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liger.profile import ExchangeChoice
from worker.communicator.chosen import ChosenCommunicator, Way
from worker.communicator.local import LocalCommunicator
from worker.profiler.choices import Choosing, Trial, choice_of, chosen

NCCL, COPY = "nccl", "copy-engine"
US = 1_000


def taken(choices, *, beside):
    return {
        each.num_tokens: each.communicator for each in choices if each.is_chosen and each.is_beside_compute is beside
    }


def test_the_fastest_way_is_taken_alone_and_beside_compute_each_for_itself():
    choices = chosen(
        {
            (64, NCCL): Trial(20 * US, 60 * US, 10 * US),
            (64, COPY): Trial(30 * US, 31 * US, 0),
            (512, NCCL): Trial(90 * US, 200 * US, 50 * US),
            (512, COPY): Trial(70 * US, 75 * US, 0),
        }
    )
    assert taken(choices, beside=False) == {64: NCCL, 512: COPY}
    assert taken(choices, beside=True) == {64: COPY, 512: COPY}
    assert len(choices) == 8


def test_what_an_exchange_takes_from_compute_counts():
    choices = chosen({(64, NCCL): Trial(20 * US, 25 * US, 10 * US), (64, COPY): Trial(30 * US, 31 * US, 0)})
    assert taken(choices, beside=True) == {64: COPY}


def test_the_first_way_is_kept_where_others_are_hardly_better():
    choices = chosen({(64, NCCL): Trial(1000, 1000, 0), (64, COPY): Trial(980, 960, 0)})
    assert taken(choices, beside=False) == {64: NCCL}
    assert taken(choices, beside=True) == {64: COPY}


def test_a_size_between_takes_the_way_of_the_nearest():
    choices = [
        ExchangeChoice(num_tokens=tokens, is_beside_compute=False, communicator=name, duration_ns=1, is_chosen=True)
        for tokens, name in ((16, NCCL), (1024, COPY))
    ]
    choose = choice_of(choices, 100, NCCL)
    assert [choose(100 * tokens, False) for tokens in (1, 16, 100, 200, 5000)] == [NCCL, NCCL, NCCL, COPY, COPY]
    assert choose(0, False) == NCCL
    assert choose(100, True) == NCCL  # nothing was tried beside compute


SIZES = st.integers(1, 8192)
TRIALS = st.builds(Trial, *[st.integers(0, 10**9)] * 3)


@given(st.sets(SIZES, min_size=1, max_size=5), st.integers(1, 4), st.data())
def test_one_way_is_taken_at_each_size_and_never_a_much_slower_one(sizes, num_ways, data):
    names = [f"way {number}" for number in range(num_ways)]
    trials = {(size, name): data.draw(TRIALS) for size, name in product(sizes, names)}
    choices = chosen(trials)
    assert len(choices) == 2 * len(trials)
    for beside in (False, True):
        of_size = taken(choices, beside=beside)
        assert set(of_size) == sizes
        for size, name in of_size.items():
            costs = {
                each.communicator: each.duration_ns + each.delay_ns
                for each in choices
                if each.num_tokens == size and each.is_beside_compute is beside
            }
            assert 0.96 * costs[name] <= min(costs.values()) or costs[name] == min(costs.values())


@given(st.sets(SIZES, min_size=1, max_size=5), st.integers(0, 10**9), st.booleans())
def test_any_size_has_a_way_that_was_tried(sizes, num_bytes, beside):
    choices = chosen({(size, str(size)): Trial(1, 1, 0) for size in sizes})
    assert int(choice_of(choices, 64, "")(num_bytes, beside)) in sizes


@pytest.mark.parametrize("beside", [False, True])
def test_without_trials_the_default_is_taken(beside):
    assert choice_of((), 64, NCCL)(1, beside) == NCCL


def test_the_communicator_with_several_ways_is_one_that_choices_are_made_for():
    inner = LocalCommunicator()
    communicator = ChosenCommunicator({Way.COPY_ENGINE: inner, Way.NCCL: inner})
    assert isinstance(communicator, Choosing)
    assert not isinstance(inner, Choosing)
    assert set(communicator.names) == {"nccl", "copy-engine"}
