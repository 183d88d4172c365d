import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.events import OutputMade, RequestBroken, RequestEnded, TokensMade
from controller.core.plan import Strategy, Topology
from controller.core.requests import GenerateWork
from liger.domain import FinishReason
from liger.errors import (
    DeadlineError,
    DuplicateRequestError,
    InputTooLongError,
    InvalidRequestError,
    LigerError,
    OverloadedError,
    RequestCancelledError,
)
from tests.support.forwards import forwards_of
from tests.support.scheduling import Run, check_clean, encode, expected_output, generate, one_by_one, report
from tests.support.simulated_ranks import SimulatedRank, made_profile, make_scheduler


def test_a_request_gets_its_tokens_in_order_and_ends():
    run = Run()
    run.scheduler.submit(generate("a", (5, 6, 7), max_tokens=6), 0)
    run.finish()
    assert run.tokens("a") == expected_output((5, 6, 7), 6)
    assert run.reason("a") is FinishReason.LENGTH
    account = run.last("a").account
    assert (account.num_prompt_tokens, account.num_completion_tokens, account.depth) == (3, 6, 1)
    check_clean(run)


def test_a_prompt_longer_than_the_budget_is_read_in_chunks():
    run = Run()
    prompt = tuple(range(1, 41))
    run.scheduler.submit(generate("a", prompt, max_tokens=3), 0)
    run.finish()
    assert run.tokens("a") == expected_output(prompt, 3)
    assert run.scheduler.num_windows >= 3 + 2


def test_a_stop_token_ends_a_sequence_and_what_was_computed_too_far_is_dropped():
    run = Run()
    output = expected_output((1, 2, 3), 10)
    run.scheduler.submit(generate("a", (1, 2, 3), max_tokens=10, stop=(output[3],)), 0)
    run.finish()
    assert run.tokens("a") == output[:4]
    assert run.reason("a") is FinishReason.STOP
    assert run.rank.num_tokens_computed > 3 + 3, "a window was published ahead of the stop"
    check_clean(run)


def test_a_stop_token_before_min_tokens_does_not_end():
    run = Run()
    output = expected_output((1, 2, 3), 10)
    run.scheduler.submit(generate("a", (1, 2, 3), max_tokens=10, stop=(output[0],), min_tokens=1), 0)
    run.finish()
    assert len(run.tokens("a")) > 1


def test_samples_of_one_request_run_side_by_side():
    run = Run()
    run.scheduler.submit(generate("a", max_tokens=4, n=3), 0)
    run.finish()
    assert all(run.tokens("a", sample) == expected_output((1, 2, 3), 4) for sample in range(3))
    assert run.rank.max_running == 3
    assert run.last("a").account.num_completion_tokens == 12


def test_sequences_join_a_decode_batch_while_others_run():
    run = Run()
    run.scheduler.submit(generate("a", max_tokens=12), 0)
    run.step()
    run.step()
    run.scheduler.submit(generate("b", (9,), max_tokens=2), 0)
    run.finish()
    order = [e.request_id for e in run.events if isinstance(e, RequestEnded)]
    assert order == ["b", "a"]


def test_inputs_of_an_encode_request_come_back_by_item():
    run = Run()
    run.scheduler.submit(encode("e", (1, 2), (3,), (4, 5, 6)), 0)
    run.finish()
    results = {e.item: e.result.values for e in run.events if isinstance(e, OutputMade)}
    assert results == {0: (1.0, 2.0), 1: (3.0,), 2: (4.0, 5.0, 6.0)}
    assert run.last("e").account.num_prompt_tokens == 6


def test_an_input_longer_than_the_budget_runs_alone():
    run = Run()
    run.scheduler.submit(encode("e", range(1, 41), (3,)), 0)
    run.finish()
    assert sum(isinstance(e, OutputMade) for e in run.events) == 2
    assert run.scheduler.num_windows == 2


def test_neither_class_of_work_starves_the_other():
    run = Run()
    for number in range(20):
        run.scheduler.submit(encode(f"e{number}", range(1, 17)), 0)
    run.scheduler.submit(generate("a", max_tokens=5), 0)
    run.finish()
    order = [e.request_id for e in run.events if isinstance(e, RequestEnded)]
    assert order.index("a") < 18


def test_higher_priority_goes_first():
    run = Run(scheduler=make_scheduler(max_sequences=1))
    run.scheduler.submit(generate("low", priority=0), 0)
    run.scheduler.submit(generate("high", priority=5), 0)
    run.scheduler.submit(encode("e-low", range(1, 17), priority=-1), 0)
    run.scheduler.submit(encode("e-high", range(1, 17), priority=1), 0)
    run.finish()
    order = [e.request_id for e in run.events if isinstance(e, RequestEnded)]
    assert order.index("high") < order.index("low")
    assert order.index("e-high") < order.index("e-low")


def test_sequences_wait_for_blocks_and_get_them():
    run = Run(scheduler=make_scheduler(num_blocks=4, block_size=4))
    for name in "abcd":
        run.scheduler.submit(generate(name, max_tokens=8), 0)
    run.finish()
    assert run.scheduler._batches.memory.num_preemptions > 0
    assert all(run.tokens(name) == expected_output((1, 2, 3), 8) for name in "abcd")
    check_clean(run)


@pytest.mark.parametrize("sample", [None, 0])
def test_a_cancelled_sequence_stops_and_gives_everything_back(sample):
    run = Run()
    run.scheduler.submit(generate("a", max_tokens=40), 0)
    run.step()
    run.events += run.scheduler.cancel("a", sample, FinishReason.CANCELLED, run.now_ns)
    told = len(run.tokens("a"))
    run.finish()
    assert len(run.tokens("a")) == told
    last = run.last("a")
    assert isinstance(last, RequestEnded) or isinstance(last.error, RequestCancelledError)
    check_clean(run)


def test_a_stop_string_seen_by_the_gateway_ends_one_sample_well():
    run = Run()
    run.scheduler.submit(generate("a", max_tokens=10, n=2), 0)
    run.step()
    run.events += run.scheduler.cancel("a", 1, FinishReason.STOP, run.now_ns)
    run.finish()
    assert len(run.tokens("a", 0)) == 10
    assert isinstance(run.last("a"), RequestEnded)
    check_clean(run)


def test_a_waiting_request_can_be_cancelled():
    run = Run(scheduler=make_scheduler(max_sequences=1))
    run.scheduler.submit(generate("a", max_tokens=3), 0)
    run.scheduler.submit(generate("b"), 0)
    run.publish()
    run.events += run.scheduler.cancel("b", None, FinishReason.CANCELLED, 0)
    run.finish()
    assert isinstance(run.last("a"), RequestEnded)
    check_clean(run)


def test_cancelling_an_unknown_request_is_fine():
    assert Run().scheduler.cancel("nobody", None, FinishReason.CANCELLED, 0) == []


def test_a_passed_deadline_ends_a_request_wherever_it_is():
    run = Run(scheduler=make_scheduler(max_sequences=1))
    run.scheduler.submit(generate("runs", max_tokens=40, deadline_ns=250), 0)
    run.scheduler.submit(generate("waits", deadline_ns=250), 0)
    run.scheduler.submit(encode("e", (1, 2), deadline_ns=None), 0)
    assert run.scheduler.next_deadline_ns() == 250
    run.step()
    run.now_ns = 250
    run.events += run.scheduler.expire(run.now_ns)
    run.finish()
    assert isinstance(run.last("runs").error, DeadlineError)
    assert isinstance(run.last("waits").error, DeadlineError)
    assert isinstance(run.last("e"), RequestEnded)
    assert run.scheduler.next_deadline_ns() is None
    check_clean(run)


def test_all_requests_fail_when_the_epoch_ends():
    run = Run()
    run.scheduler.submit(generate("a"), 0)
    run.scheduler.submit(encode("e", (1,)), 0)
    run.publish()
    broken = run.scheduler.fail_all(LigerError("lost"))
    assert {event.request_id for event in broken} == {"a", "e"}
    assert run.scheduler.num_requests == 0


def test_windows_are_published_ahead_of_results_but_not_further_than_allowed():
    run = Run(scheduler=make_scheduler(windows_ahead=2))
    run.scheduler.submit(generate("a", max_tokens=10), 0)
    run.publish()
    assert len(run.outcomes) == 2
    assert [outcome.number for outcome in run.outcomes] == [1, 2]


def test_logprobs_go_to_those_who_asked():
    run = Run()
    run.scheduler.submit(generate("plain", max_tokens=2), 0)
    run.scheduler.submit(generate("asks", max_tokens=2, logprobs=0), 0)
    run.finish()
    by_request = {"plain": [], "asks": []}
    for event in one_by_one(run.events):
        if isinstance(event, TokensMade):
            by_request[event.request_id].append(len(event.logprobs))
    assert by_request == {"plain": [0, 0], "asks": [1, 1]}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (generate("x", range(1, 60), max_tokens=10), InputTooLongError),
        (encode("x", range(1, 66)), InputTooLongError),
        (generate("x", (1000,)), InvalidRequestError),
        (encode("x", (1, 2), (2000,)), InvalidRequestError),
    ],
)
def test_what_can_never_run_is_refused_and_costs_nothing(request_, error):
    run = Run()
    with pytest.raises(error):
        run.scheduler.submit(request_, 0)
    check_clean(run)


def test_a_sequence_that_the_kv_cache_can_never_hold_is_refused():
    run = Run(scheduler=make_scheduler(num_blocks=2, block_size=4))
    with pytest.raises(InputTooLongError, match="KV cache holds 8"):
        run.scheduler.submit(generate("a", max_tokens=20), 0)


def test_a_second_request_with_the_same_id_is_refused():
    run = Run()
    run.scheduler.submit(generate("a"), 0)
    with pytest.raises(DuplicateRequestError):
        run.scheduler.submit(encode("a", (1,)), 0)


def test_a_full_queue_refuses_with_a_time_to_retry():
    run = Run(scheduler=make_scheduler(max_requests=2))
    run.scheduler.submit(generate("a"), 0)
    run.scheduler.submit(generate("b"), 0)
    with pytest.raises(OverloadedError) as caught:
        run.scheduler.submit(generate("c"), 0)
    assert caught.value.retry_after_s is not None


def test_an_outcome_of_another_window_is_our_bug_and_loud():
    run = Run()
    run.scheduler.submit(generate("a"), 0)
    run.publish()
    run.outcomes.popleft()
    with pytest.raises(LigerError, match="is due"):
        run.scheduler.commit(report(run.outcomes.popleft()), 0)


@st.composite
def workloads(draw):
    requests = []
    for number in range(draw(st.integers(1, 12))):
        if draw(st.booleans()):
            prompt = tuple(draw(st.lists(st.integers(0, 999), min_size=1, max_size=30)))
            request = generate(
                f"g{number}",
                prompt,
                max_tokens=draw(st.integers(1, 20)),
                n=draw(st.integers(1, 3)),
                stop=draw(st.sets(st.integers(0, 999), max_size=200)),
                min_tokens=draw(st.integers(0, 3)),
                priority=draw(st.integers(-2, 2)),
            )
        else:
            inputs = draw(st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=30), min_size=1, max_size=5))
            request = encode(f"e{number}", *inputs, priority=draw(st.integers(-2, 2)))
        requests.append((request, draw(st.integers(0, 10)), draw(st.none() | st.integers(0, 15))))
    return requests


@st.composite
def profiles(draw):
    return made_profile(
        compute_ns=draw(st.integers(0, 500_000)),
        exchange_ns=draw(st.integers(0, 500_000)),
        floor_ns=draw(st.integers(1000, 5_000_000)),
        contention=draw(st.floats(1, 3)),
    )


@settings(max_examples=150, deadline=None)
@given(
    workload=workloads(),
    num_blocks=st.integers(16, 40),
    max_sequences=st.integers(1, 5),
    max_batch_tokens=st.integers(1, 20),
    windows_ahead=st.integers(1, 3),
    strategy=st.sampled_from(Strategy),
    profile=profiles(),
    num_layers=st.integers(2, 9),
)
def test_any_mix_of_arrivals_and_cancels_gives_every_token_once_and_leaves_nothing(
    workload, num_blocks, max_sequences, max_batch_tokens, windows_ahead, strategy, profile, num_layers
):
    stages = (1, num_layers - 1) if strategy is Strategy.PIPELINE else (num_layers,)
    forwards, topology = forwards_of(*stages), Topology(pp_size=len(stages))
    scheduler = make_scheduler(
        strategy=strategy,
        profile=profile,
        forwards=forwards,
        topology=topology,
        num_blocks=num_blocks,
        max_sequences=max_sequences,
        max_batch_tokens=max_batch_tokens,
        windows_ahead=windows_ahead,
    )
    run = Run(scheduler=scheduler, rank=SimulatedRank(num_slots=4, forwards=forwards, topology=topology))
    cancelled = set()
    for moment in range(16):
        for request, arrival, cancel in workload:
            if arrival == moment:
                run.scheduler.submit(request, run.now_ns)
            if cancel == moment and cancel >= arrival:
                done = {e.request_id for e in run.events if isinstance(e, RequestEnded)}
                if request.request_id not in done:
                    cancelled.add(request.request_id)
                run.events += run.scheduler.cancel(request.request_id, None, FinishReason.CANCELLED, run.now_ns)
        run.step()
    run.finish()
    for request, _, _ in workload:
        last = run.last(request.request_id)
        assert isinstance(last, RequestBroken) == (request.request_id in cancelled)
        if isinstance(request.work, GenerateWork):
            work = request.work
            whole = expected_output(work.prompt_token_ids, work.max_tokens, work.stop_token_ids, work.min_tokens)
            for sample in range(len(work.samplings)):
                tokens = run.tokens(request.request_id, sample)
                assert tokens == (whole[: len(tokens)] if request.request_id in cancelled else whole)
        elif request.request_id not in cancelled:
            got = {
                e.item: e.result.values
                for e in run.events
                if isinstance(e, OutputMade) and e.request_id == request.request_id
            }
            assert got == {i: tuple(map(float, item.token_ids)) for i, item in enumerate(request.work.items)}
    check_clean(run)
