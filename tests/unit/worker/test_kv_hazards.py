import pytest

from liger.domain import BatchKind, Fence, Sampling
from liger.errors import ScheduleRefusedError
from liger.schedule import BatchStart, BlockAppends, DecodeRows, EncodeRows, PrefillRows, SequenceStart, Window
from worker.kv_hazards import KvHazards

FENCE = Fence(leader_term=1, group="g", epoch=1)


def window(*batches, starts=(), ends=()):
    rows = [SequenceStart(row=row, sampling=Sampling(), sample=0, num_prompt_tokens=1) for row in starts]
    return Window(
        fence=FENCE,
        number=1,
        pattern_id=0,
        batch_ids=(),
        batch_starts=batches,
        sequence_starts=tuple(rows),
        sequence_ends=ends,
    )


def prefill(batch_id, row, count, blocks, *, start=0, forks=()):
    rows = PrefillRows(
        rows=(row,),
        num_tokens=(count,),
        starts=(start,),
        token_ids=(1,) * count,
        samples=(True,),
        appends=BlockAppends(rows=(row,), counts=(len(blocks),), blocks=blocks),
        fork_counts=(len(forks),) if forks else (),
        fork_rows=forks,
    )
    return BatchStart(batch_id=batch_id, kind=BatchKind.PREFILL, slot=0, rows=rows)


def decode(batch_id, rows, positions, appends=BlockAppends()):
    rows = DecodeRows(rows=rows, positions=positions, appends=appends)
    return BatchStart(batch_id=batch_id, kind=BatchKind.DECODE, slot=0, rows=rows)


@pytest.fixture
def hazards():
    """Two rows: row 0 has written five tokens in blocks 0 and 1; row 1 begins as its fork."""
    hazards = KvHazards(4)
    hazards.begin(window(prefill(1, 0, 5, (0, 1), forks=(1,)), starts=(0, 1)))
    hazards.end(1)
    return hazards


def test_a_sequence_goes_on_in_its_own_block(hazards):
    copied = BlockAppends(copy_rows=(0,), copy_sources=(1,), copy_targets=(2,))
    hazards.begin(window(decode(2, (0, 1), (5, 5), copied)))
    hazards.end(2)
    hazards.begin(window(decode(3, (0, 1), (6, 6))))
    assert (hazards.table(0), hazards.table(1)) == ([0, 2], [0, 1])


def test_a_block_found_in_the_prefix_cache_may_be_read_beside_its_owner(hazards):
    hazards.begin(window(decode(2, (1,), (5,)), prefill(3, 2, 2, (0, 5), start=4), starts=(2,)))


def test_encode_batches_touch_nothing(hazards):
    rows = EncodeRows(num_tokens=(1,), token_ids=(1,), token_type_ids=(), outputs=())
    hazards.begin(window(BatchStart(batch_id=2, kind=BatchKind.ENCODE, slot=0, rows=rows)))
    hazards.end(2)


REFUSED = {
    "two forks write the block that they share": [decode(2, (0, 1), (5, 5))],
    "two batches write a block": [decode(2, (0,), (5,)), decode(3, (1,), (5,))],
    "a row in two batches": [decode(2, (0,), (5,)), decode(3, (0,), (6,))],
    "a block is given anew while it is written": [decode(2, (0,), (5,)), prefill(3, 2, 3, (1,))],
    "a block is given anew while it is read": [decode(2, (0,), (5,)), prefill(3, 2, 3, (0,))],
    "a prefix that nobody has written": [prefill(2, 2, 2, (7, 5), start=4)],
    "a prefix that is half written": [prefill(2, 2, 2, (1, 5), start=4)],
    "too few blocks": [prefill(2, 2, 9, (6, 7))],
    "a copy of another block than the last": [
        decode(2, (0,), (5,), BlockAppends(copy_rows=(0,), copy_sources=(0,), copy_targets=(2,)))
    ],
    "a copy of what is being written": [
        decode(2, (0,), (5,)),
        decode(3, (1,), (5,), BlockAppends(copy_rows=(1,), copy_sources=(1,), copy_targets=(2,))),
    ],
    "a row that no sequence holds": [decode(2, (9,), (5,))],
}


@pytest.mark.parametrize("batches", REFUSED.values(), ids=REFUSED.keys())
def test_what_could_spoil_a_block_is_refused(hazards, batches):
    with pytest.raises(ScheduleRefusedError):
        hazards.begin(window(*batches, starts=(2,)))


def test_a_row_is_freed_only_after_its_batches(hazards):
    hazards.begin(window(decode(2, (0,), (5,))))
    with pytest.raises(ScheduleRefusedError):
        hazards.begin(window(ends=(0,)))


def test_a_row_is_given_to_one_sequence(hazards):
    with pytest.raises(ScheduleRefusedError):
        hazards.begin(window(starts=(0,)))
