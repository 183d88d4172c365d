import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.plan import Strategy
from liger.domain import BatchKind, Task
from tests.support.scheduling import Run, encode, generate
from tests.support.simulated_ranks import SimulatedRank, make_scheduler

NS_A_TOKEN = 1_000_000


def busy_ns(kind: BatchKind, num_tokens: int) -> int:
    return 20 * NS_A_TOKEN if kind is BatchKind.DECODE else num_tokens * NS_A_TOKEN


def saturated(weights, *, strategy, num_steps=400):
    """Return each task's share of the ranks' time while all of them always have work."""
    scheduler = make_scheduler(
        weights=dict.fromkeys(Task, 1.0) | weights,
        strategy=strategy,
        max_length=5000,
        num_blocks=3000,
        max_batch_tokens=64,
        max_requests=10_000,
        max_unread_tokens=10_000,
    )
    run = Run(scheduler=scheduler, rank=SimulatedRank(num_slots=4, busy_ns=busy_ns))
    for number in range(4):
        scheduler.submit(generate(f"g{number}", max_tokens=4000), 0)
    for number in range(num_steps):
        for task in weights:
            if task is not Task.GENERATE:
                scheduler.submit(encode(f"{task}-{number}", range(1, 40), range(1, 30), task=task), run.now_ns)
        run.step()
    return {share.task: share.share for share in scheduler._batches.shares()}


@pytest.mark.parametrize("strategy", [Strategy.TENSOR, Strategy.INTERLEAVED])
@pytest.mark.parametrize(
    "weights",
    [
        {Task.GENERATE: 1.0, Task.EMBED: 1.0},
        {Task.GENERATE: 4.0, Task.EMBED: 1.0},
        {Task.GENERATE: 1.0, Task.EMBED: 3.0, Task.SCORE: 2.0},
    ],
)
def test_tasks_that_always_have_work_get_their_shares(strategy, weights):
    shares = saturated(weights, strategy=strategy)
    total = sum(weights.values())
    for task, weight in weights.items():
        assert shares[task] == pytest.approx(weight / total, abs=0.08)


@settings(max_examples=15, deadline=None)
@given(weights=st.fixed_dictionaries({task: st.floats(0.2, 5.0) for task in (Task.GENERATE, Task.EMBED, Task.SCORE)}))
def test_no_task_starves_whatever_the_weights(weights):
    shares = saturated(weights, strategy=Strategy.INTERLEAVED, num_steps=300)
    total = sum(weights.values())
    assert all(shares[task] > 0.5 * weight / total for task, weight in weights.items())


def test_a_task_that_comes_late_does_not_claim_the_past():
    scheduler = make_scheduler(
        max_length=5000, num_blocks=3000, max_batch_tokens=64, max_unread_tokens=10_000, max_requests=1000
    )
    run = Run(scheduler=scheduler, rank=SimulatedRank(busy_ns=busy_ns))
    scheduler.submit(generate("g", max_tokens=4000), 0)
    for _ in range(200):
        run.step()
    before = len(run.tokens("g"))
    for number in range(100):
        scheduler.submit(encode(f"e{number}", range(1, 60)), run.now_ns)
    for _ in range(40):
        run.step()
    assert len(run.tokens("g")) - before > 20


def test_generation_goes_on_while_prompts_keep_coming():
    scheduler = make_scheduler(
        max_length=5000,
        num_blocks=8000,
        max_batch_tokens=64,
        max_unread_tokens=10_000,
        max_sequences=200,
        max_requests=1000,
    )
    run = Run(scheduler=scheduler, rank=SimulatedRank(busy_ns=busy_ns))
    scheduler.submit(generate("g", max_tokens=4000), 0)
    for number in range(120):
        if number < 90:
            scheduler.submit(generate(f"p{number}", (number, *range(1, 64)), max_tokens=1), run.now_ns)
        run.step()
    assert len(run.tokens("g")) > 60


def worn(**limits):
    """Return a run in which a long generation is over and nothing is under way."""
    limits = {"max_length": 5000, "num_blocks": 8000, "max_batch_tokens": 64, "max_requests": 2000} | limits
    scheduler = make_scheduler(max_unread_tokens=10_000, **limits)
    run = Run(scheduler=scheduler, rank=SimulatedRank(busy_ns=busy_ns))
    scheduler.submit(generate("old", max_tokens=2000), 0)
    run.finish()
    return run


def test_what_a_task_had_before_an_idle_time_is_forgotten():
    run = worn()
    for number in range(100):
        run.scheduler.submit(encode(f"e{number}", range(1, 60)), run.now_ns)
    run.step()
    run.scheduler.submit(generate("new", max_tokens=1000), run.now_ns)
    for _ in range(60):
        run.step()
    assert len(run.tokens("new")) > 20


def test_what_decoding_had_before_an_idle_time_is_forgotten():
    run = worn(max_sequences=200)
    run.scheduler.submit(generate("new", max_tokens=1000), run.now_ns)
    for number in range(100):
        run.scheduler.submit(generate(f"p{number}", (number, *range(1, 64)), max_tokens=1), run.now_ns)
        run.step()
    assert len(run.tokens("new")) > 30


def test_a_stream_that_waited_for_its_client_claims_nothing_for_that_time():
    scheduler = make_scheduler(
        max_length=5000, num_blocks=3000, max_batch_tokens=64, max_requests=2000, max_unread_tokens=8
    )
    run = Run(scheduler=scheduler, rank=SimulatedRank(busy_ns=busy_ns))
    scheduler.submit(generate("slow", max_tokens=4000), 0)
    for number in range(200):
        scheduler.submit(encode(f"e{number}", range(1, 60)), run.now_ns)
        run.step()
    before = scheduler._batches.sharing.taken_ns[Task.EMBED]
    for number in range(60):
        scheduler.submit(encode(f"f{number}", range(1, 60)), run.now_ns)
        scheduler.acknowledge("slow", 0, len(run.tokens("slow")))
        run.step()
    assert scheduler._batches.sharing.taken_ns[Task.EMBED] - before > 10 * busy_ns(BatchKind.ENCODE, 59)
