from dataclasses import replace

import pytest

from liger.domain import Axis, BatchKind, Fence, Lane, SegmentKind
from liger.errors import ScheduleRefusedError, StaleFenceError
from liger.schedule import BatchStart, DecodeRows, Piece
from tests.support.forwards import FENCE, forwards_of, pattern_of, step_of, window_of
from worker.guard import WindowGuard

FORWARDS = forwards_of(2)
DECODE = FORWARDS[BatchKind.DECODE]
LAST = len(DECODE)
MLP = next(place for place, segment in enumerate(DECODE) if segment.kind is SegmentKind.MLP)
STAGED = forwards_of(1, 2)


def run_of(first, last, operand=0):
    return [step_of(DECODE, place, operand=operand, begin=first) for place in range(first, last)]


def a_pattern(first=0, last=LAST):
    return pattern_of(run_of(first, last), BatchKind.DECODE)


def a_start(batch_id=1, slot=0, kind=BatchKind.DECODE):
    return BatchStart(batch_id=batch_id, kind=kind, slot=slot, rows=DecodeRows(rows=(0,), positions=(3,)))


def a_window(pattern, number=1, batch_id=1, starts=None, **changes):
    starts = (a_start(batch_id),) if starts is None else starts
    return replace(window_of(pattern, number, (batch_id,), starts), **changes)


def admit(guard, pattern, *, number=1, batch_ids=(1,), starts=None):
    starts = [a_start(batch_id, slot) for slot, batch_id in enumerate(batch_ids)] if starts is None else starts
    guard.learn(pattern)
    guard.admit(window_of(pattern, number, batch_ids, starts))


def cut(place, *pieces, count=2):
    return [step_of(DECODE, place, piece=(index, count)) for index in pieces]


@pytest.fixture
def guard():
    guard = WindowGuard(fence=FENCE, forwards=FORWARDS, num_slots=2)
    guard.learn(a_pattern())
    guard.learn(a_pattern(0, 3))
    guard.learn(a_pattern(3))
    return guard


def test_windows_in_order_are_admitted(guard):
    pattern = a_pattern()
    for number in range(1, 4):
        assert guard.admit(a_window(pattern, number, batch_id=number)) == pattern


def test_a_batch_may_go_on_in_a_later_window(guard):
    guard.admit(a_window(a_pattern(0, 3)))
    guard.admit(a_window(a_pattern(3), number=2, starts=()))


def test_one_pattern_serves_every_layer(guard):
    admit(guard, a_pattern(0, 1))
    layer = pattern_of(run_of(1, 5), BatchKind.DECODE)
    admit(guard, layer, number=2, starts=())
    admit(guard, layer, number=3, starts=())
    with pytest.raises(ScheduleRefusedError, match="forward is over"):
        admit(guard, layer, number=4, starts=())


def test_batches_in_slots_of_their_own_may_interleave(guard):
    steps = [step for pair in zip(run_of(0, LAST), run_of(0, LAST, operand=1), strict=True) for step in pair]
    pattern = pattern_of(steps, BatchKind.DECODE, BatchKind.DECODE)
    admit(guard, pattern, batch_ids=(1, 2))
    admit(guard, pattern, number=2, batch_ids=(3, 4))


def test_what_one_batch_may_do_another_that_stands_elsewhere_may_not(guard):
    pattern = a_pattern(0, 3)
    admit(guard, pattern)
    with pytest.raises(ScheduleRefusedError):
        admit(guard, pattern, number=2, starts=())


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


def test_a_batch_of_another_kind_is_refused(guard):
    with pytest.raises(ScheduleRefusedError, match="not in flight so"):
        guard.admit(a_window(a_pattern(), starts=(a_start(kind=BatchKind.PREFILL),)))


@pytest.mark.parametrize("digest", [0, 1])
def test_another_digest_than_the_contents_is_refused(guard, digest):
    with pytest.raises(ScheduleRefusedError, match="digest"):
        guard.admit(a_window(a_pattern(), order_digest=digest))


def test_segments_out_of_turn_are_refused(guard):
    with pytest.raises(ScheduleRefusedError, match="1 came, 0 is due"):
        admit(guard, pattern_of([step_of(DECODE, 1), step_of(DECODE, 0)], BatchKind.DECODE))


def test_a_segment_that_is_left_out_is_refused(guard):
    with pytest.raises(ScheduleRefusedError, match="2 came, 1 is due"):
        admit(guard, pattern_of([step_of(DECODE, 0), step_of(DECODE, 2)], BatchKind.DECODE))


def test_segments_behind_the_end_are_refused(guard):
    guard.admit(a_window(a_pattern(0, 3)))
    with pytest.raises(ScheduleRefusedError):
        guard.admit(a_window(a_pattern(), number=2, starts=()))


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


def test_one_batch_cannot_stand_behind_two_operands(guard):
    pattern = pattern_of(run_of(0, LAST), BatchKind.DECODE, BatchKind.DECODE)
    with pytest.raises(ScheduleRefusedError, match="2 different batches"):
        admit(guard, pattern, batch_ids=(1, 1), starts=[a_start(1)])


def test_a_pattern_that_is_not_what_its_id_says_is_refused(guard):
    with pytest.raises(ScheduleRefusedError, match="not what its id says"):
        guard.learn(replace(a_pattern(), id=1))


def test_a_pattern_with_segments_that_do_not_exist_is_refused(guard):
    step = replace(step_of(DECODE, 0), segment=LAST)
    with pytest.raises(ScheduleRefusedError, match="does not have"):
        guard.learn(pattern_of([step], BatchKind.DECODE))


def test_a_model_without_decode_refuses_decode_patterns():
    guard = WindowGuard(fence=FENCE, forwards={BatchKind.ENCODE: FORWARDS[BatchKind.ENCODE]}, num_slots=1)
    with pytest.raises(ScheduleRefusedError):
        guard.learn(a_pattern())


def test_a_fence_is_a_value():
    assert Fence(leader_term=1, group="g", epoch=1) == FENCE


@pytest.mark.parametrize(
    "middle",
    [
        [*cut(MLP, 0, 1), *run_of(0, LAST)[MLP + 1 : MLP + 2]],
        [*cut(MLP, 0, 1), *cut(MLP + 1, 0, 1)],
        [*cut(MLP, 0, 1), *cut(MLP + 1, 0, 1, 2, count=3)],
        [*cut(MLP, 0), *cut(MLP + 1, 0), *cut(MLP, 1), *cut(MLP + 1, 1)],
        [*cut(MLP, 0, 1, count=3), *cut(MLP + 1, 0, 1, count=3), *cut(MLP, 2, count=3), *cut(MLP + 1, 2, count=3)],
        [step_of(DECODE, MLP), *cut(MLP + 1, 0, 1)],
    ],
)
def test_an_mlp_and_an_exchange_may_come_in_pieces(guard, middle):
    admit(guard, pattern_of([*run_of(0, MLP), *middle, *run_of(0, LAST)[MLP + 2 :]], BatchKind.DECODE))
    with pytest.raises(ScheduleRefusedError, match="not in flight"):  # it is over
        admit(guard, a_pattern(), number=2, starts=())


@pytest.mark.parametrize(
    "middle",
    [
        cut(MLP, 1, 0),
        cut(MLP, 0, 0),
        [*cut(MLP, 0), step_of(DECODE, MLP)],
        [*cut(MLP, 0), *cut(MLP, 1, count=3)],
        [*cut(MLP, 0), *cut(MLP + 1, 0, 1), *cut(MLP, 1)],  # more exchanged than computed
        [*cut(MLP, 0), step_of(DECODE, MLP + 1), *cut(MLP, 1)],
        [*cut(MLP, 0), *cut(MLP + 1, 0, count=3)],
        [*cut(MLP, 0), *cut(MLP + 1, 0), *cut(MLP, 1), *cut(MLP + 1, 1, count=3)],
        [*cut(MLP, 0), *cut(MLP + 1, 0), *cut(MLP, 1), step_of(DECODE, MLP + 1)],
        [*cut(MLP, 0), *cut(MLP + 2, 0)],
        cut(MLP, 0),  # left half at the end
        [step_of(DECODE, MLP), *cut(MLP + 1, 0, 1, count=3)],
    ],
)
def test_pieces_out_of_turn_or_left_out_are_refused(guard, middle):
    with pytest.raises(ScheduleRefusedError):
        admit(guard, pattern_of([*run_of(0, MLP), *middle], BatchKind.DECODE))


def test_an_exchange_after_a_whole_segment_does_not_run_ahead(guard):
    steps = [*run_of(0, MLP - 1), *cut(MLP - 1, 0), *cut(MLP, 0), *cut(MLP - 1, 1), *cut(MLP, 1)]
    with pytest.raises(ScheduleRefusedError, match=f"{MLP} came, {MLP - 1} is due"):
        admit(guard, pattern_of(steps, BatchKind.DECODE))


@pytest.mark.parametrize("place", [0, 1, LAST - 3, LAST - 2, LAST - 1])
def test_other_kinds_of_segments_are_not_cut(guard, place):
    with pytest.raises(ScheduleRefusedError, match="is not cut"):
        admit(guard, pattern_of([*run_of(0, place), *cut(place, 0, 1)], BatchKind.DECODE))


def test_columns_are_not_cut(guard):
    step = replace(step_of(DECODE, MLP), piece=Piece(axis=Axis.COLUMNS, index=0, count=1))
    with pytest.raises(ScheduleRefusedError, match="not cut by COLUMNS"):
        admit(guard, pattern_of([*run_of(0, MLP), step], BatchKind.DECODE))


@pytest.mark.parametrize("piece", [(0, 0), (2, 2), (5, 2)])
def test_pieces_that_do_not_exist_are_refused(guard, piece):
    with pytest.raises(ScheduleRefusedError, match="piece that does not exist"):
        guard.learn(pattern_of([step_of(DECODE, 0, piece=piece)], BatchKind.DECODE))


def staged_guard(tp_size):
    return WindowGuard(fence=FENCE, forwards=STAGED, num_slots=2, tp_size=tp_size, pp_size=2)


def staged_steps(tp_size):
    decode = STAGED[BatchKind.DECODE]
    return [step_of(decode, place, tp_size=tp_size) for place in range(len(decode))]


@pytest.mark.parametrize("tp_size", [1, 2])
def test_each_stages_segments_name_its_ranks(tp_size):
    admit(staged_guard(tp_size), pattern_of(staged_steps(tp_size), BatchKind.DECODE))


@pytest.mark.parametrize("ranks", [(), (0,), (0, 1, 2, 3), (2, 3), (1, 0), (0, 0), (9,)])
def test_a_segment_for_other_ranks_than_its_stages_is_refused(ranks):
    steps = staged_steps(2)
    steps[0] = replace(steps[0], participants=ranks)
    with pytest.raises(ScheduleRefusedError, match="cannot run a segment of stage 0"):
        admit(staged_guard(2), pattern_of(steps, BatchKind.DECODE))


def test_without_stages_no_ranks_are_named(guard):
    steps = [replace(step, participants=(0,)) for step in run_of(0, LAST)]
    with pytest.raises(ScheduleRefusedError, match="cannot run"):
        admit(guard, pattern_of(steps, BatchKind.DECODE))


def test_another_lane_than_the_segments_is_refused(guard):
    steps = [replace(step_of(DECODE, 0), lane=Lane.COMMUNICATION)]
    with pytest.raises(ScheduleRefusedError, match="lane"):
        admit(guard, pattern_of(steps, BatchKind.DECODE))
