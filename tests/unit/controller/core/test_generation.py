"""Paged blocks, prefix cache, forks and preemption, through the scheduler against a rank that keeps tokens as KV."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.block_manager import BlockManager
from controller.core.charges import Charges
from controller.core.events import RequestBroken, RequestEnded, TokensMade
from controller.core.generation import Generation
from controller.core.limits import BatchLimits
from controller.core.plan import Strategy
from controller.core.sequence import samples_of
from controller.core.sequence_memory import SequenceMemory
from liger.domain import FinishReason
from liger.errors import InvalidRequestError
from tests.support.scheduling import Run, check_clean, encode, expected_output, generate
from tests.support.simulated_ranks import SimulatedRank, make_scheduler

SHARED = tuple(range(100, 120))  # five blocks of four


def memory(run):
    return run.scheduler._batches.memory


def test_a_shared_beginning_is_computed_once():
    run = Run(scheduler=make_scheduler(max_batch_tokens=64, max_length=200))
    run.scheduler.submit(generate("a", (*SHARED, 1, 2), max_tokens=3), 0)
    run.finish()
    before = run.rank.num_tokens_computed
    run.scheduler.submit(generate("b", (*SHARED, 7), max_tokens=3), 0)
    run.finish()
    assert run.tokens("b") == expected_output((*SHARED, 7), 3)
    assert run.rank.num_tokens_computed - before <= 1 + 2 + 1, "one token of the prompt, two drawn, one too far"
    account = run.last("b").account
    assert (account.num_prompt_tokens, account.num_cached_tokens) == (21, 20)
    assert account.saved_prefill_ns > 0
    assert (memory(run).num_looked_up, memory(run).num_found) == (22 + 21, 20)
    check_clean(run)


def test_the_last_token_of_a_known_prompt_is_computed_again_as_a_token_must_be_drawn_from_it():
    run = Run(scheduler=make_scheduler(max_batch_tokens=64, max_length=200))
    for name in "ab":
        run.scheduler.submit(generate(name, SHARED, max_tokens=2), 0)
        run.finish()
    assert run.tokens("b") == expected_output(SHARED, 2)
    assert run.last("b").account.num_cached_tokens == 16


def test_what_was_made_is_found_too():
    run = Run(scheduler=make_scheduler(max_batch_tokens=64, max_length=200))
    run.scheduler.submit(generate("a", SHARED, max_tokens=9), 0)
    run.finish()
    turn = (*SHARED, *expected_output(SHARED, 9), 5, 6)
    run.scheduler.submit(generate("b", turn, max_tokens=2), 0)
    run.finish()
    assert run.tokens("b") == expected_output(turn, 2)
    assert run.last("b").account.num_cached_tokens == 28, "what was computed of the output, in whole blocks"


def test_tokens_after_an_end_are_never_found():
    output = expected_output(SHARED, 12)
    run = Run(scheduler=make_scheduler(max_batch_tokens=64, max_length=200, windows_ahead=4))
    run.scheduler.submit(generate("a", SHARED, max_tokens=12, stop=(output[2],)), 0)
    run.finish()
    run.scheduler.submit(generate("b", (*SHARED, *output, 1), max_tokens=1), 0)
    run.finish()
    assert run.last("b").account.num_cached_tokens <= 20
    assert run.tokens("b") == expected_output((*SHARED, *output, 1), 1)


def test_samples_share_the_prompt_and_copy_what_they_write():
    run = Run(scheduler=make_scheduler(max_batch_tokens=64, max_length=200))
    run.scheduler.submit(generate("a", (*SHARED, 1), max_tokens=6, n=4), 0)
    run.finish()
    assert all(run.tokens("a", sample) == expected_output((*SHARED, 1), 6) for sample in range(4))
    assert run.rank.num_copies == 4, "the source is held until the ranks are told to copy it"
    assert run.rank.num_tokens_computed <= 21 + 4 * 6, "the prompt once"
    check_clean(run)


def test_prompts_that_begin_alike_and_come_at_once_compute_the_beginning_once():
    run = Run(scheduler=make_scheduler(max_batch_tokens=64, max_length=200))
    for number in range(6):
        run.scheduler.submit(generate(f"r{number}", (*SHARED, number), max_tokens=2), 0)
    run.scheduler.submit(generate("other", (9, 8, 7), max_tokens=2), 0)
    run.finish()
    cached = [run.last(f"r{number}").account.num_cached_tokens for number in range(6)]
    assert cached == [0] + [20] * 5
    order = [event.request_id for event in run.events if isinstance(event, RequestEnded)]
    assert order.index("other") < order.index("r1"), "it does not wait with them"
    assert all(run.tokens(f"r{number}") == expected_output((*SHARED, number), 2) for number in range(6))
    check_clean(run)


def test_a_prompt_whose_beginning_was_to_be_computed_by_a_cancelled_one_goes_on():
    run = Run(scheduler=make_scheduler(max_batch_tokens=8, max_length=200))
    run.scheduler.submit(generate("a", (*SHARED, 1), max_tokens=2), 0)
    run.scheduler.submit(generate("b", (*SHARED, 2), max_tokens=2), 0)
    run.publish()
    run.events += run.scheduler.cancel("a", None, FinishReason.CANCELLED, run.now_ns)
    run.finish()
    assert run.tokens("b") == expected_output((*SHARED, 2), 2)
    check_clean(run)


def test_a_copied_block_goes_to_no_other_before_the_copy_is_published():
    """Batches are published in another order than they were formed where a task is behind."""
    scheduler = make_scheduler(
        strategy=Strategy.INTERLEAVED, num_blocks=16, max_sequences=6, max_batch_tokens=16, max_length=200
    )
    run = Run(scheduler=scheduler, rank=SimulatedRank(num_slots=4))
    for number in range(40):
        prompt = SHARED[: 2 + number % 9]
        scheduler.submit(generate(f"r{number}", prompt, max_tokens=1 + number % 5, n=1 + number % 4), run.now_ns)
        scheduler.submit(encode(f"e{number}", range(1, 9)), run.now_ns)
        run.step()
    run.finish()
    assert run.rank.num_copies > 0
    for number in range(40):
        for sample in range(1 + number % 4):
            expected = expected_output(SHARED[: 2 + number % 9], 1 + number % 5)
            assert run.tokens(f"r{number}", sample) == expected
    check_clean(run)


def test_what_the_ranks_are_told_when_sequences_begin_is_bounded(monkeypatch):
    monkeypatch.setattr("controller.core.generation.MAX_START_BYTES", 250)
    monkeypatch.setattr("controller.core.admission.MAX_START_BYTES", 250)
    run = Run(scheduler=make_scheduler(max_batch_tokens=64, max_length=200))
    for number in range(6):
        run.scheduler.submit(generate(f"r{number}", (number, 2), max_tokens=2), 0)
    planned = run.scheduler.next_window(run.now_ns)
    assert len(planned[1].sequence_starts) == 2, "two starts of 100 bytes fit"
    run.outcomes.append(run.rank.run(*planned))
    with pytest.raises(InvalidRequestError, match="smaller n"):
        run.scheduler.submit(generate("wide", (1, 2), max_tokens=2, n=3), 0)
    run.finish()
    assert all(run.tokens(f"r{number}") == expected_output((number, 2), 2) for number in range(6))
    check_clean(run)


def test_more_samples_than_rows_begin_when_others_are_done():
    run = Run(scheduler=make_scheduler(max_sequences=2))
    run.scheduler.submit(generate("a", max_tokens=4, n=5), 0)
    run.finish()
    assert all(run.tokens("a", sample) == expected_output((1, 2, 3), 4) for sample in range(5))
    assert run.rank.max_running == 2
    check_clean(run)


def test_a_sample_that_ends_before_its_prompt_is_read_leaves_the_others():
    run = Run(scheduler=make_scheduler(max_batch_tokens=8))
    run.scheduler.submit(generate("a", SHARED, max_tokens=3, n=3), 0)
    run.publish()
    run.events += run.scheduler.cancel("a", 0, FinishReason.STOP, run.now_ns)
    run.finish()
    assert [run.tokens("a", sample) for sample in (1, 2)] == [expected_output(SHARED, 3)] * 2
    check_clean(run)


def test_the_newest_of_the_lowest_priority_gives_its_memory_back():
    run = Run(scheduler=make_scheduler(num_blocks=8, block_size=4, max_batch_tokens=64))
    run.scheduler.submit(generate("old", max_tokens=20), 0)
    run.scheduler.submit(generate("urgent", (4, 5), max_tokens=20, priority=5), 0)
    run.scheduler.submit(generate("new", (6, 7, 8), max_tokens=20), 0)
    run.finish()
    order = [event.request_id for event in run.events if isinstance(event, RequestEnded)]
    assert order[0] == "urgent"
    assert order[-1] == "new"
    assert memory(run).num_preemptions > 0
    for name, prompt in (("old", (1, 2, 3)), ("urgent", (4, 5)), ("new", (6, 7, 8))):
        assert run.tokens(name) == expected_output(prompt, 20)
    check_clean(run)


def test_likelihoods_of_a_prompt_come_once_and_whole():
    run = Run(scheduler=make_scheduler(max_batch_tokens=8, num_blocks=8))
    run.scheduler.submit(generate("first", SHARED[:12], max_tokens=10), 0)
    run.scheduler.submit(generate("a", SHARED, max_tokens=6, n=2, prompt_logprobs=1), 0)
    run.finish()
    made = [event for event in run.events if isinstance(event, TokensMade) and event.prompt_logprobs]
    assert [(event.request_id, event.sample, event.offset) for event in made] == [("a", 0, 0)]
    assert [each.token_id for each in made[0].prompt_logprobs] == list(SHARED[1:])
    assert run.last("a").account.num_cached_tokens == 0, "what is found has no likelihoods"
    check_clean(run)


def test_a_sample_that_nobody_reads_waits_and_others_go_on():
    run = Run(scheduler=make_scheduler(max_unread_tokens=4, max_length=100))
    run.scheduler.submit(generate("slow", max_tokens=20), 0)
    run.scheduler.submit(generate("fast", (9,), max_tokens=20), 0)
    for _ in range(60):
        run.step()
        run.scheduler.acknowledge("fast", 0, len(run.tokens("fast")))
    assert len(run.tokens("slow")) == 4
    assert run.tokens("fast") == expected_output((9,), 20)
    for _ in range(60):
        run.scheduler.acknowledge("slow", 0, len(run.tokens("slow")))
        run.step()
    assert run.tokens("slow") == expected_output((1, 2, 3), 20)
    check_clean(run)


def test_a_sample_that_nobody_reads_gives_its_memory_to_others():
    run = Run(scheduler=make_scheduler(max_unread_tokens=4, num_blocks=8, block_size=4))
    run.scheduler.submit(generate("old", max_tokens=24), 0)
    run.scheduler.submit(generate("slow", (8, 9), max_tokens=24), 0)
    for _ in range(100):
        run.scheduler.acknowledge("old", 0, len(run.tokens("old")))
        run.step()
    assert run.tokens("old") == expected_output((1, 2, 3), 24)
    for _ in range(100):
        run.scheduler.acknowledge("slow", 0, len(run.tokens("slow")))
        run.step()
    assert run.tokens("slow") == expected_output((8, 9), 24)
    check_clean(run)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("generate"), st.integers(0, 30), st.integers(1, 12), st.integers(1, 4), st.integers(-1, 1)),
        st.tuples(st.just("encode"), st.integers(1, 12), st.integers(1, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 40), st.sampled_from([None, 0, 1])),
        st.tuples(st.just("step"), st.integers(1, 6)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(
    actions=ACTIONS,
    strategy=st.sampled_from([Strategy.TENSOR, Strategy.INTERLEAVED]),
    num_blocks=st.integers(12, 24),
    max_batch_tokens=st.sampled_from([5, 16, 64]),
    windows_ahead=st.integers(1, 3),
)
def test_whatever_comes_nothing_is_lost_doubled_or_kept(actions, strategy, num_blocks, max_batch_tokens, windows_ahead):
    """Random arrivals, samples, cancels and preemptions; the cache is tiny, and prompts begin alike."""
    scheduler = make_scheduler(
        num_blocks=num_blocks,
        max_batch_tokens=max_batch_tokens,
        windows_ahead=windows_ahead,
        strategy=strategy,
        max_sequences=6,
    )
    run = Run(scheduler=scheduler, rank=SimulatedRank(num_slots=4))
    asked, cancelled = {}, set()
    for number, (kind, *values) in enumerate(actions):
        name = f"r{number}"
        match kind:
            case "generate":
                length, max_tokens, n, priority = values
                prompt = (*SHARED, *SHARED)[: length + 1] if length % 3 else (*SHARED[: length // 2], number)
                request = generate(name, prompt, max_tokens=max_tokens, n=n, priority=priority)
                scheduler.submit(request, run.now_ns)
                asked[name] = (prompt, max_tokens, n)
            case "encode":
                scheduler.submit(encode(name, *[range(1, values[0] + 1)] * values[1]), run.now_ns)
            case "cancel":
                target, sample = f"r{values[0]}", values[1]
                reason = FinishReason.CANCELLED if sample is None else FinishReason.STOP
                run.events += scheduler.cancel(target, sample, reason, run.now_ns)
                cancelled.add(target)
            case "step":
                for _ in range(values[0]):
                    run.step()
        memory(run).check_integrity()
    run.finish()
    check_clean(run)
    ends = [event.request_id for event in run.events if isinstance(event, RequestEnded | RequestBroken)]
    assert len(ends) == len(set(ends))
    for name, (prompt, max_tokens, n) in asked.items():
        for sample in range(n):
            expected = expected_output(prompt, max_tokens)
            made = run.tokens(name, sample)
            assert made == expected[: len(made)]
            assert name in cancelled or len(made) == max_tokens


class _TwoGroups:
    """A sizing for which two decode batches pay whatever there is."""

    def num_parts(self, _kind, _num_tokens):
        return 1

    def num_groups(self, _num_sequences, _context, *, beside_others):
        return 1 if beside_others else 2

    def tokens_beside(self, _kind):
        return None


def decoding(num_sequences):
    """Return sequences that decode, all of them in no batch, and what forms their batches."""
    limits = BatchLimits(max_batch_tokens=4096, max_sequences=64)
    memory = SequenceMemory(64, BlockManager(num_blocks=1000, block_size=16))
    generation = Generation(limits, memory, _TwoGroups())
    for number in range(num_sequences):
        begin(generation, number)
    return generation


def begin(generation, number):
    request = generate(f"s{number}", range(8), max_tokens=100)
    (sequence,) = samples_of(request, request.work, number, Charges())
    generation.add(sequence, [])
    generation.admit()
    generation.prefill(1, 0, enough=4096, most=4096)
    sequence.in_batch = False


def decode_size(generation):
    batch = generation.decode(1, 0, beside_others=False)
    return len(batch.sequences) if batch is not None else 0


def test_two_groups_are_halves():
    generation = decoding(9)
    assert [decode_size(generation) for _ in range(3)] == [5, 4, 0]


@pytest.mark.parametrize(("num_new", "size"), [(1, 0), (2, 2), (4, 4)])
def test_few_new_sequences_wait_to_join_those_that_decode_and_a_half_does_not(num_new, size):
    generation = decoding(8 - num_new)
    big = generation.decode(1, 0, beside_others=True)
    for number in range(num_new):
        begin(generation, 100 + number)
    assert decode_size(generation) == size
    for sequence in big.sequences:
        sequence.in_batch = False
    generation.published(is_decode=True)
    assert decode_size(generation) == 4
