import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.cost_model import CostModel
from controller.core.interleave import Interleaver
from controller.core.plan import Strategy, Topology
from controller.core.planner import HASTE_NS, MAX_CACHED, MAX_COLD, SEARCH_NS, Planner
from controller.core.situation import Situation
from liger.domain import BatchKind, Lane, SegmentKind
from tests.support.driven_plans import batch_of, drive, planner_of, search_cold
from tests.support.forwards import forwards_of
from tests.support.made_loads import batch_sets, speeds
from tests.support.simulated_ranks import made_profile

LONG = 1e12  # a backlog in which any search fits


def three(num_tokens=256):
    return [batch_of(number, BatchKind.ENCODE, num_tokens) for number in (1, 2, 3)]


@pytest.fixture
def searches(monkeypatch):
    """Return how many batches each search was for."""
    found = []
    cut = Interleaver.cut

    def counted(self, views, *others, **more):
        found.append(len(views))
        return cut(self, views, *others, **more)

    monkeypatch.setattr(Interleaver, "cut", counted)
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batch_sets(), speeds(), st.sampled_from([(2,), (9,), (1, 2)]), st.integers(1, 4), st.sampled_from([0, LONG]))
def test_planners_that_are_told_the_same_plan_the_same(batches, speed, stage_layers, depth, backlog_ns):
    again = [batch_of(one.batch_id, one.kind, one.num_tokens, context=one.shape.context) for one in batches]
    first = drive(planner_of(speed.table(), *stage_layers), batches, depth=depth, backlog_ns=backlog_ns)
    second = drive(planner_of(speed.table(), *stage_layers), again, depth=depth, backlog_ns=backlog_ns)
    assert [plan.cut for plan in first.plans] == [plan.cut for plan in second.plans]


def test_a_window_that_was_planned_before_is_not_searched_for_again(searches):
    planner = planner_of(made_profile(), 30)
    first = drive(planner, three())
    known = len(searches)
    second = drive(planner, three())
    assert len(searches) == known
    assert [plan.cut for plan in first.plans] == [plan.cut for plan in second.plans]


def test_batches_of_nearly_the_same_size_share_their_windows(searches):
    planner = planner_of(made_profile(), 12)
    drive(planner, three(240))
    known = len(searches)
    drive(planner, three(250))
    assert len(searches) == known


def test_one_pattern_serves_many_layers_of_a_deep_model(searches):
    driven = drive(planner_of(made_profile(), 60), three(128))
    assert len({plan.pattern.id for plan in driven.plans}) < len(driven.plans)
    assert len(searches) < len(driven.plans)


def test_with_too_little_backlog_the_oldest_goes_on_alone_and_the_search_comes_later(searches):
    planner = planner_of(made_profile(), 12)
    in_flight = three()
    plan = planner.plan(in_flight, backlog_ns=HASTE_NS / 2, is_idle=True)
    assert plan.batches == (in_flight[0],)
    assert searches == [1]
    assert not search_cold(planner), "it may never come again"
    assert planner.plan(in_flight, backlog_ns=HASTE_NS / 2, is_idle=True).batches == plan.batches
    assert search_cold(planner)
    assert searches == [1, 3]
    assert not search_cold(planner), "nothing else is cold"
    warm = planner.plan(in_flight, backlog_ns=0.0, is_idle=True)
    assert len(warm.batches) > 1
    assert searches == [1, 3]


def test_with_some_backlog_a_hasty_plan_of_what_comes_again_does_until_the_search_is_made(searches):
    planner = planner_of(made_profile(), 12)
    assert len(planner.plan(three(), backlog_ns=HASTE_NS, is_idle=True).batches) == 1
    hasty = planner.plan(three(), backlog_ns=HASTE_NS, is_idle=True)
    assert hasty.cut.is_hasty
    assert len(hasty.batches) > 1
    planner.plan(three(), backlog_ns=HASTE_NS, is_idle=True)
    assert searches == [1]
    assert search_cold(planner)
    assert not planner.plan(three(), backlog_ns=0.0, is_idle=True).cut.is_hasty


def test_with_enough_backlog_the_search_is_made_at_once(searches):
    plan = planner_of(made_profile(), 12).plan(three(), backlog_ns=SEARCH_NS, is_idle=True)
    assert searches == [3]
    assert len(plan.batches) > 1


def test_searches_made_before_or_after_find_the_same():
    late, early = planner_of(made_profile(), 12), planner_of(made_profile(), 12)
    for _ in range(2):
        late.plan(three(), is_idle=True)
    search_cold(late)
    assert late.plan(three(), is_idle=True).cut == early.plan(three(), backlog_ns=LONG, is_idle=True).cut


def test_new_costs_are_planned_with(searches):
    planner = planner_of(made_profile(), 12)
    planner.plan(three(), backlog_ns=LONG, is_idle=True)
    for _ in range(300):
        planner.costs.observe(BatchKind.ENCODE, SegmentKind.MLP, 1e6, 3e6)
    assert planner.costs.renew()
    planner.plan(three(), is_idle=True)
    assert searches == [3], "what was found is still a good order"
    planner.plan(three(), backlog_ns=LONG, is_idle=True)
    assert searches == [3, 3]


def test_caches_are_bounded():
    planner = planner_of(made_profile(), 1)
    for number in (*range(MAX_COLD + 10), *range(MAX_COLD + 10)):
        planner.plan(
            [batch_of(1, BatchKind.DECODE, 1), batch_of(2, BatchKind.DECODE, 1, context=2**number)], is_idle=True
        )
    assert sum(iter(lambda: search_cold(planner), False)) == MAX_COLD


def test_what_was_found_first_is_forgotten_first():
    planner = planner_of(made_profile(), 1)
    cut = planner.plan([batch_of(1, BatchKind.DECODE, 1)], is_idle=True).cut
    keys = [((), (float(number),), Situation.USUAL) for number in range(MAX_CACHED + 1)]
    for key in keys:
        planner.keep(key, cut)
    assert keys[0] not in planner._cuts
    assert set(keys[1:]) == set(planner._cuts)


def test_what_lanes_are_behind_is_waited_for_unless_the_ranks_are_idle():
    planner = planner_of(made_profile(exchange_ns=90_000), 12)
    first = planner.plan(three(), backlog_ns=LONG, is_idle=True)
    assert first.cut.free[1] > 0, "an exchange is under way when the compute lane is free"
    follows = planner.plan(three(), backlog_ns=LONG)
    begins_ns = [
        expected.begin_ns
        for step, expected in zip(follows.pattern.steps, follows.cut.expected, strict=True)
        if step.lane is Lane.COMMUNICATION
    ]
    assert min(begins_ns) == pytest.approx(first.cut.free[1], rel=0.25)
    assert planner.plan(three(), backlog_ns=LONG, is_idle=True).cut == first.cut


def test_a_batch_joins_at_the_next_window():
    planner = planner_of(made_profile(), 12)
    first, second = three()[:2]
    alone = planner.plan([first], backlog_ns=LONG, is_idle=True, is_pressed=True)
    assert alone.positions[0] < len(planner.forwards[first.kind])
    first.position = alone.positions[0]
    assert planner.plan([first, second], backlog_ns=LONG).batches == (first, second)


def test_without_costs_the_oldest_batch_runs_to_its_end():
    planner = Planner(forwards_of(3), strategy=Strategy.INTERLEAVED)
    batches = three()
    plan = planner.plan(batches)
    assert plan.batches == (batches[0],)
    assert plan.positions == (len(planner.forwards[BatchKind.ENCODE]),)
    assert not search_cold(planner)


def test_tensor_takes_the_oldest_batch_to_its_end():
    planner = Planner(forwards_of(3), strategy=Strategy.TENSOR, costs=CostModel(made_profile()))
    driven = drive(planner, three(), depth=1)
    assert [plan.batches[0].batch_id for plan in driven.plans] == [1, 2, 3]


@pytest.mark.parametrize("stage_layers", [(1, 2), (2, 1, 1)])
def test_pipeline_takes_each_batch_through_one_stage_a_window(stage_layers):
    topology = Topology(tp_size=1, pp_size=len(stage_layers))
    planner = Planner(forwards_of(*stage_layers), strategy=Strategy.PIPELINE, topology=topology)
    kinds = [BatchKind.ENCODE, BatchKind.PREFILL, BatchKind.DECODE]
    driven = drive(planner, [batch_of(number, kind, 4) for number, kind in enumerate(kinds, 1)], depth=3)
    assert len(driven.plans) == len(stage_layers)
    assert all(len(plan.batches) == 3 for plan in driven.plans)
    assert [len(plan.batches) for plan in driven.plans] == [3] * len(stage_layers)
