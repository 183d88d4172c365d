from hypothesis import given
from hypothesis import strategies as st

from worker.timing.budget import LaunchBudget


def test_more_launches_are_expected_to_take_longer():
    assert LaunchBudget(1).expected_ns < LaunchBudget(20).expected_ns < LaunchBudget(100).expected_ns


def test_what_a_slow_host_takes_is_learnt_with_some_time_to_spare():
    budget = LaunchBudget(1)
    budget.learn(4_000_000)
    assert budget.expected_ns == 5_000_000
    budget.learn(1_000)
    assert budget.expected_ns == 5_000_000


@given(st.integers(0, 1000), st.lists(st.integers(0, 10**12)))
def test_a_lane_is_never_held_for_long(num_launches, taken):
    budget = LaunchBudget(num_launches)
    for launched_ns in taken:
        budget.learn(launched_ns)
    assert 0 <= budget.expected_ns <= 20_000_000
