from dataclasses import replace

import pytest

from liger.digest import order_digest, pattern_digest
from liger.domain import BatchKind, Fence, Lane
from liger.errors import ScheduleRefusedError, StaleFenceError
from liger.schedule import BatchStart, DecodeRows, Pattern, Step, Window
from tests.support.simulated_ranks import FENCE, FORWARDS
from worker.guard import WindowGuard

DECODE = FORWARDS[BatchKind.DECODE]


def a_pattern(first=0, last=len(DECODE), operands=(BatchKind.DECODE,)):
    steps = tuple(Step(operand=0, segment=number, lane=DECODE[number].lane) for number in range(first, last))
    return Pattern(id=pattern_digest(operands, steps), operands=operands, steps=steps)


def a_start(batch_id=1, slot=0, kind=BatchKind.DECODE):
    return BatchStart(batch_id=batch_id, kind=kind, slot=slot, rows=DecodeRows(rows=(0,), positions=(3,)))


def a_window(pattern, number=1, batch_id=1, starts=None, **changes):
    window = Window(
        fence=FENCE,
        number=number,
        pattern_id=pattern.id,
        batch_ids=(batch_id,),
        batch_starts=(a_start(batch_id),) if starts is None else starts,
        order_digest=order_digest(pattern.steps, (batch_id,)),
    )
    return replace(window, **changes)


@pytest.fixture
def guard():
    guard = WindowGuard(fence=FENCE, forwards=FORWARDS, num_slots=1)
    guard.learn(a_pattern())
    guard.learn(a_pattern(0, 3))
    guard.learn(a_pattern(3, len(DECODE)))
    return guard


def test_windows_in_order_are_admitted(guard):
    pattern = a_pattern()
    for number in range(1, 4):
        assert guard.admit(a_window(pattern, number, batch_id=number)) == pattern


def test_a_batch_may_go_on_in_a_later_window(guard):
    guard.admit(a_window(a_pattern(0, 3)))
    guard.admit(a_window(a_pattern(3, len(DECODE)), number=2, starts=()))


@pytest.mark.parametrize("number", [0, 2, 7])
def test_a_gap_or_a_repeat_is_refused(guard, number):
    with pytest.raises(ScheduleRefusedError, match="came after window 0"):
        guard.admit(a_window(a_pattern(), number))


@pytest.mark.parametrize("change", [{"epoch": 2}, {"epoch": 0}, {"leader_term": 9}, {"group": "other"}])
def test_another_epoch_is_refused(guard, change):
    with pytest.raises(StaleFenceError):
        guard.admit(a_window(a_pattern(), fence=replace(FENCE, **change)))


def test_an_unknown_pattern_is_refused(guard):
    with pytest.raises(ScheduleRefusedError, match="unknown pattern"):
        guard.admit(a_window(a_pattern(), pattern_id=5))


def test_an_unknown_batch_is_refused(guard):
    with pytest.raises(ScheduleRefusedError, match="not in flight"):
        guard.admit(a_window(a_pattern(), starts=()))


def test_another_digest_than_the_contents_is_refused(guard):
    with pytest.raises(ScheduleRefusedError, match="digest"):
        guard.admit(a_window(a_pattern(), order_digest=1))


def test_segments_out_of_turn_are_refused(guard):
    with pytest.raises(ScheduleRefusedError, match="0 is due"):
        guard.admit(a_window(a_pattern(3, len(DECODE))))


def test_a_busy_or_unknown_slot_is_refused(guard):
    guard.admit(a_window(a_pattern(0, 3)))
    with pytest.raises(ScheduleRefusedError, match="slot 0"):
        guard.admit(a_window(a_pattern(), number=2, batch_id=2))
    with pytest.raises(ScheduleRefusedError, match="slot 4"):
        guard.admit(a_window(a_pattern(), number=2, batch_id=3, starts=(a_start(3, slot=4),)))


def test_a_batch_number_that_does_not_grow_is_refused(guard):
    guard.admit(a_window(a_pattern()))
    with pytest.raises(ScheduleRefusedError, match="cannot start"):
        guard.admit(a_window(a_pattern(), number=2))


def test_one_batch_cannot_stand_behind_two_operands():
    guard = WindowGuard(fence=FENCE, forwards=FORWARDS, num_slots=2)
    pattern = a_pattern(operands=(BatchKind.DECODE, BatchKind.DECODE))
    guard.learn(pattern)
    with pytest.raises(ScheduleRefusedError, match="2 different batches"):
        guard.admit(a_window(pattern, batch_ids=(1, 1)))


def test_a_pattern_that_is_not_what_its_id_says_is_refused(guard):
    with pytest.raises(ScheduleRefusedError, match="not what its id says"):
        guard.learn(replace(a_pattern(), id=1))


def test_a_pattern_with_segments_that_do_not_exist_is_refused(guard):
    steps = (Step(operand=0, segment=len(DECODE), lane=Lane.COMPUTE),)
    with pytest.raises(ScheduleRefusedError, match="does not have"):
        guard.learn(Pattern(id=pattern_digest((BatchKind.DECODE,), steps), operands=(BatchKind.DECODE,), steps=steps))


def test_a_model_without_decode_refuses_decode_patterns():
    guard = WindowGuard(fence=FENCE, forwards={BatchKind.ENCODE: FORWARDS[BatchKind.ENCODE]}, num_slots=1)
    with pytest.raises(ScheduleRefusedError):
        guard.learn(a_pattern())


def test_a_fence_is_a_value():
    assert Fence(leader_term=1, group="g", epoch=1) == FENCE
