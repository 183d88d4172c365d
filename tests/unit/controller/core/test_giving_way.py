"""Sequences that gave their memory back, and sequences whose clients do not read, harm nobody."""

import pytest

from controller.config import ControllerConfig
from gateway.generate_inbox import ACKNOWLEDGE_EVERY
from liger.domain import FinishReason
from liger.errors import ConfigError
from tests.support.scheduling import Run, check_clean, expected_output, generate
from tests.support.simulated_ranks import make_scheduler

LONG = tuple(range(12))


@pytest.mark.parametrize("num_steps", range(40))
def test_a_cancel_at_any_moment_of_a_preempted_sequence_ends_it_for_good(num_steps):
    run = Run(scheduler=make_scheduler(num_blocks=8, block_size=4))
    for name in ("old", "new"):
        run.scheduler.submit(generate(name, LONG, max_tokens=16), 0)
    for _ in range(num_steps):
        run.step()
    run.events += run.scheduler.cancel("new", None, FinishReason.CANCELLED, run.now_ns)
    run.finish()
    assert run.tokens("old") == expected_output(LONG, 16)
    check_clean(run)


def stall(run: Run, n: int) -> None:
    run.scheduler.submit(generate("unread", LONG, max_tokens=40, n=n), 0)
    run.finish()
    assert len(run.tokens("unread")) == 8


@pytest.mark.parametrize("memory", [{"max_sequences": 2}, {"num_blocks": 14}])
def test_samples_that_nobody_reads_give_way_to_others_and_go_on_when_they_are_read(memory):
    run = Run(scheduler=make_scheduler(max_unread_tokens=8, max_length=100, **memory))
    stall(run, 2)
    for number in range(3):
        run.scheduler.submit(generate(f"read {number}", (number, *LONG), max_tokens=8), run.now_ns)
    run.finish()
    for number in range(3):
        assert run.tokens(f"read {number}") == expected_output((number, *LONG), 8)
    for taken in range(8, 41, 4):
        for sample in range(2):
            run.scheduler.acknowledge("unread", sample, taken)
        run.finish()
    for sample in range(2):
        assert run.tokens("unread", sample) == expected_output(LONG, 40)
    check_clean(run)


def test_a_running_sequence_gets_the_blocks_of_older_ones_that_nobody_reads():
    run = Run(scheduler=make_scheduler(max_unread_tokens=8, max_length=100, num_blocks=13, max_sequences=8))
    stall(run, 2)  # 12 + 8 tokens of each; what they share counts once
    run.scheduler.submit(generate("read", (99,), max_tokens=48), run.now_ns)
    while run.step():
        run.scheduler.acknowledge("read", 0, len(run.tokens("read")))
    assert run.tokens("read") == expected_output((99,), 48)
    run.events += run.scheduler.cancel("unread", None, FinishReason.CANCELLED, run.now_ns)
    run.finish()
    check_clean(run)


def test_samples_may_run_ahead_further_than_gateways_tell_what_clients_took():
    assert ControllerConfig(max_unread_tokens=128).max_unread_tokens > ACKNOWLEDGE_EVERY
    with pytest.raises(ConfigError, match="128"):
        ControllerConfig(max_unread_tokens=127)
