from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liger.digest import LaunchDigest, launch_digest, order_digest, pattern_digest, takes_part, token_digest
from liger.domain import Axis, BatchKind, Lane
from liger.schedule import Piece, Step

pieces = st.builds(Piece, axis=st.sampled_from(Axis), index=st.integers(0, 7), count=st.integers(1, 8))
steps = st.builds(
    Step,
    operand=st.integers(0, 1),
    segment=st.integers(0, 200),
    lane=st.sampled_from(Lane),
    piece=st.none() | pieces,
    participants=st.lists(st.integers(0, 7), max_size=3).map(tuple),
)
STEP = Step(operand=0, segment=3, lane=Lane.COMPUTE, participants=(0, 1))
CHANGES = [
    {"operand": 1},
    {"segment": 4},
    {"lane": Lane.COMMUNICATION},
    {"piece": Piece(axis=Axis.ROWS, index=0, count=2)},
]


@given(st.lists(steps, max_size=20), st.integers(0, 7))
def test_adding_launch_by_launch_gives_the_digest_of_what_a_rank_takes_part_in(order, rank):
    digest = LaunchDigest()
    for step in order:
        if not step.participants or rank in step.participants:
            digest.add(step)

    assert digest.value() == launch_digest(order, rank)
    assert 0 <= digest.value() < 1 << 64


@given(st.lists(steps, min_size=2, max_size=20, unique=True), st.data())
def test_another_order_has_another_digest(order, data):
    first, second = data.draw(st.lists(st.integers(0, len(order) - 1), min_size=2, max_size=2, unique=True))
    swapped = list(order)
    swapped[first], swapped[second] = swapped[second], swapped[first]

    launched = [replace(step, participants=()) for step in order]
    launched_swapped = [replace(step, participants=()) for step in swapped]
    if launched != launched_swapped:  # two steps may differ in their participants alone
        assert launch_digest(launched, 0) != launch_digest(launched_swapped, 0)
    assert pattern_digest([BatchKind.DECODE], order) != pattern_digest([BatchKind.DECODE], swapped)


def test_a_step_without_participants_is_everybodys():
    everybodys = replace(STEP, participants=())
    assert [takes_part(everybodys, rank) for rank in range(3)] == [True] * 3
    assert [takes_part(STEP, rank) for rank in range(3)] == [True, True, False]


def test_ranks_that_take_part_in_other_steps_launch_other_orders():
    order = [STEP, replace(STEP, segment=4, participants=(2,))]
    assert launch_digest(order, 0) == launch_digest([STEP], 0) == launch_digest(order, 1)
    assert launch_digest(order, 2) != launch_digest(order, 0)


@pytest.mark.parametrize("change", [*CHANGES, {"participants": (0,)}])
def test_every_field_of_a_step_is_part_of_its_pattern(change):
    kinds = [BatchKind.DECODE, BatchKind.DECODE]
    assert pattern_digest(kinds, [STEP]) != pattern_digest(kinds, [replace(STEP, **change)])


@pytest.mark.parametrize("change", CHANGES)
def test_every_field_of_a_launch_is_part_of_its_digest(change):
    assert launch_digest([STEP], 0) != launch_digest([replace(STEP, **change)], 0)


def test_the_kinds_of_batches_are_part_of_a_pattern():
    assert pattern_digest([BatchKind.DECODE], [STEP]) != pattern_digest([BatchKind.PREFILL], [STEP])


def test_the_same_order_of_other_batches_has_another_digest():
    assert len({order_digest(5, ids) for ids in ([10], [11], [10, 11], [11, 10])}) == 4
    assert order_digest(5, [10]) != order_digest(6, [10])


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=5), min_size=2, max_size=4))
def test_tokens_are_told_apart_by_batch_and_place(ids):
    batch_ids = list(range(1, len(ids) + 1))
    moved = [ids[0] + ids[1], [], *ids[2:]]
    if moved != ids:
        assert token_digest(batch_ids, ids) != token_digest(batch_ids, moved)
    assert token_digest(batch_ids, ids) == token_digest(tuple(batch_ids), [tuple(row) for row in ids])


def test_digests_are_the_same_on_every_machine():
    assert pattern_digest([BatchKind.DECODE], [STEP]) == 4705962620949016545
    assert launch_digest([STEP], 0) == 6207125971499838692
    assert order_digest(4705962620949016545, [7]) == 2427828585067303858
    assert token_digest([1, 2], [[5, 6], []]) == 13997929470650315348
