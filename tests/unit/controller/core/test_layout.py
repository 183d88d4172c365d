from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.layout import Job, Layout, Task, chain, lay_out
from tests.support.exhaustive import best_makespan, serial_makespan

SLACK = 0.05


@st.composite
def chains(draw, most: int, num_lanes: int = 2, *, decomposed: bool = False, held: float = 1.0) -> Job:
    """Return a job as batches have them: compute and exchange in turn, some pairs in pieces, stage after stage.

    Exchanges keep their lane for the share `held` of their time.
    """
    tasks: list[Task] = []
    duration = st.integers(1, 40)
    stage, is_compute = 0, draw(st.booleans())
    while len(tasks) < most:
        last = len(tasks) - 1
        if decomposed and is_compute and most - len(tasks) >= 4 and draw(st.booleans()):
            compute, exchange = draw(duration), draw(duration)
            for index in range(2):
                tasks.append(Task(2 * stage, compute, len(tasks) - (1 if index == 0 else 2)))
                tasks.append(Task(2 * stage + 1, exchange, len(tasks) - 1, held=held))
            is_compute = True
            continue
        tasks.append(Task(2 * stage + (not is_compute), draw(duration), last, held=1.0 if is_compute else held))
        if not is_compute and 2 * stage + 2 < num_lanes and draw(st.booleans()):
            stage += 1
        is_compute = not is_compute
    return Job(tuple(tasks), draw(st.sampled_from([0.0, 0.0, 7.0, 30.0])))


@st.composite
def instances(
    draw, *, decomposed: bool = False, num_lanes: int = 2, held: float = 1.0
) -> tuple[list[Job], tuple[float, ...]]:
    """Return jobs and when lanes are free: two of up to 6 tasks, or three of up to 4."""
    lengths = draw(
        st.lists(st.integers(1, 6), min_size=2, max_size=2) | st.lists(st.integers(1, 4), min_size=3, max_size=3)
    )
    jobs = [draw(chains(length, num_lanes, decomposed=decomposed, held=held)) for length in lengths]
    free = tuple(float(draw(st.sampled_from([0, 0, 5, 20]))) for _ in range(num_lanes))
    return jobs, free


KINDS = {
    "plain": instances(),
    "decomposed": instances(decomposed=True),
    "two stages": instances(num_lanes=4),
    "decomposed, two stages": instances(decomposed=True, num_lanes=4),
    "exchanges that overlap": instances(decomposed=True, held=0.5),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def check_feasible(layout: Layout, jobs: list[Job], free: tuple[float, ...]) -> None:
    placed = {(one.job, one.task): one for one in layout.placed}
    assert sorted(placed) == [(number, task) for number, job in enumerate(jobs) for task in range(len(job.tasks))]
    assert len(placed) == len(layout.placed)
    for (number, task), one in placed.items():
        asked = jobs[number].tasks[task]
        assert one.lane == asked.lane
        assert one.end - one.begin >= asked.duration - 1e-6
        assert one.begin >= (jobs[number].ready if asked.after < 0 else placed[number, asked.after].end)
    for lane, available in enumerate(free):
        on_lane = sorted((one for one in layout.placed if one.lane == lane), key=lambda one: one.begin)
        assert all(one.begin >= available for one in on_lane)
        released = [one.begin + (one.end - one.begin) * jobs[one.job].tasks[one.task].held for one in on_lane]
        assert all(before <= after.begin for before, after in zip(released, on_lane[1:], strict=False))
        assert layout.free[lane] == max([available, *released])
    for number, job in enumerate(jobs):
        assert layout.ends[number] == max(placed[number, task].end for task in range(len(job.tasks)))


@every_kind
@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_every_task_runs_once_after_what_it_waits_for_on_a_lane_of_its_own(kind, data):
    jobs, free = data.draw(KINDS[kind])
    check_feasible(lay_out(jobs, num_lanes=len(free), slack=SLACK, free=free), jobs, free)


@every_kind
@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_the_first_job_is_delayed_by_no_more_than_its_slack_and_none_ends_later_than_in_turn(kind, data):
    jobs, free = data.draw(KINDS[kind])
    layout = lay_out(jobs, num_lanes=len(free), slack=SLACK, free=free)
    alone = chain(jobs[0], free)
    assert layout.ends[0] <= alone + SLACK * (alone - jobs[0].ready) + 1e-5
    assert layout.makespan <= serial_makespan(jobs, free)


@every_kind
@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_a_layout_is_nearly_as_short_as_the_best_of_all(kind, data):
    jobs, free = data.draw(KINDS[kind])
    layout = lay_out(jobs, num_lanes=len(free), slack=SLACK, free=free)
    assert layout.makespan <= 1.05 * best_makespan(jobs, free, SLACK)


@st.composite
def long_instances(draw) -> list[Job]:
    """Return three jobs as long as a window is."""
    decomposed, num_lanes = draw(st.booleans()), draw(st.sampled_from([2, 4]))
    return [draw(chains(draw(st.integers(8, 24)), num_lanes, decomposed=decomposed)) for _ in range(3)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(long_instances(), st.sampled_from([1, 2, 6]))
def test_long_jobs_too_never_delay_the_first_beyond_its_slack_however_narrow_the_search(jobs, width):
    free = (0.0,) * 4
    layout = lay_out(jobs, num_lanes=4, slack=SLACK, width=width)
    check_feasible(layout, jobs, free)
    alone = chain(jobs[0], free)
    assert layout.ends[0] <= alone + SLACK * (alone - jobs[0].ready) + 1e-5
    assert layout.makespan <= serial_makespan(jobs, free)


@every_kind
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_the_order_of_launches_has_everything_after_what_it_needs_and_lanes_as_planned(kind, data):
    jobs, free = data.draw(KINDS[kind])
    layout = lay_out(jobs, num_lanes=len(free), slack=SLACK, free=free)
    order = layout.launch_order()
    assert sorted(order, key=repr) == sorted(layout.placed, key=repr)
    places = {(one.job, one.task): place for place, one in enumerate(order)}
    for number, job in enumerate(jobs):
        for task, asked in enumerate(job.tasks):
            assert asked.after < 0 or places[number, asked.after] < places[number, task]
    for lane in range(len(free)):
        begins = [one.begin for one in order if one.lane == lane]
        assert begins == sorted(begins)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(long_instances())
def test_the_same_jobs_are_laid_out_alike(jobs):
    assert lay_out(jobs, num_lanes=4, slack=SLACK) == lay_out(list(jobs), num_lanes=4, slack=SLACK)


def test_an_exchange_is_queued_before_the_compute_that_it_lies_under():
    jobs = [Job((Task(0, 10, -1), Task(1, 10, 0))), Job((Task(0, 10, -1),))]
    order = [(one.job, one.task) for one in lay_out(jobs, num_lanes=2, slack=0.0).launch_order()]
    assert order == [(0, 0), (0, 1), (1, 0)]


def test_an_exchange_that_follows_one_on_its_lane_is_queued_with_it():
    decomposed = Job((Task(0, 10, -1), Task(1, 10, 0), Task(1, 10, 1)))
    jobs = [decomposed, Job((Task(0, 30, -1),))]
    order = [(one.job, one.task) for one in lay_out(jobs, num_lanes=2, slack=0.0).launch_order()]
    assert order == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_contention_makes_longer_only_what_lies_beside_a_busy_lane():
    jobs = [Job((Task(0, 10, -1), Task(1, 10, 0))), Job((Task(0, 20, -1, contention=1.5),))]
    layout = lay_out(jobs, num_lanes=2, slack=0.0)
    assert layout.ends == (20.0, 10.0 + 20 + 5)


def test_lanes_and_jobs_that_are_not_free_at_once_are_waited_for():
    layout = lay_out([Job((Task(0, 5, -1), Task(1, 5, 0)), ready=3.0)], num_lanes=2, slack=0.0, free=(4.0, 12.0))
    assert [(one.begin, one.end) for one in layout.placed] == [(4.0, 9.0), (12.0, 17.0)]
    assert layout.free == (9.0, 17.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(long_instances(), st.floats(1, 2))
def test_with_contention_too_the_first_job_waits_no_longer_than_its_slack(jobs, factor):
    contended = [Job(tuple(replace(task, contention=factor) for task in job.tasks), job.ready) for job in jobs]
    layout = lay_out(contended, num_lanes=4, slack=SLACK)
    check_feasible(layout, contended, (0.0,) * 4)
    alone = chain(jobs[0], (0.0,) * 4)
    longer = sum(one.end - one.begin - jobs[0].tasks[one.task].duration for one in layout.placed if one.job == 0)
    assert layout.ends[0] - longer <= alone + SLACK * (alone - jobs[0].ready) + 1e-5


@given(data=st.data(), factor=st.sampled_from([1.0, 1.7]))
def test_a_job_alone_is_laid_out_as_beside_one_without_tasks(data, factor):
    """The second needs the search; the first needs none."""
    jobs, free = data.draw(KINDS["decomposed, two stages"])
    job = replace(jobs[0], tasks=tuple(replace(task, contention=factor) for task in jobs[0].tasks))
    alone = lay_out([job], num_lanes=4, slack=SLACK, free=free)
    beside = lay_out([job, Job(())], num_lanes=4, slack=SLACK, free=free)
    assert alone.placed == beside.placed
    assert (alone.ends, alone.free) == (beside.ends[:1], beside.free)


def test_an_exchange_may_begin_before_the_last_has_ended_where_lanes_are_kept_for_less():
    jobs = [Job((Task(0, 10, -1), Task(1, 20, 0, held=0.5), Task(0, 10, 1))), Job((Task(0, 5, -1), Task(1, 20, 0)))]
    layout = lay_out(jobs, num_lanes=2, slack=0.0)
    begins = {(one.job, one.task): one.begin for one in layout.placed}
    assert begins[0, 1] == 10.0
    assert begins[1, 1] == 20.0  # not 30
    assert begins[0, 2] == 30.0
