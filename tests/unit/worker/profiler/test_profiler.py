import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from liger.domain import BatchKind, SegmentKind
from liger.errors import GroupFailedError
from liger.rpc.profile import from_profile, to_profile
from tests.unit.worker.profiler.measuring import Rank, measured, together


def test_ranks_agree_on_one_table_though_their_clocks_differ(ranks):
    slow, fast = ranks()
    slow.speed = 3
    one, other = together([slow, fast])
    assert one == other
    assert from_profile(one).SerializeToString(deterministic=True) == from_profile(other).SerializeToString(
        deterministic=True
    )
    assert to_profile(from_profile(one)) == one


def test_ranks_with_unequal_clocks_leave_out_the_same(ranks):
    slow, fast = ranks()
    slow.speed = 1000
    one, other = together([slow, fast], limit_s=0.5)
    assert one == other
    assert {sample.segment for sample in one.segments} >= {SegmentKind.MLP, SegmentKind.ALL_REDUCE}


def test_a_table_has_every_segment_of_every_kind_of_batch_and_the_exchanges(ranks):
    table, _ = together(ranks())
    body = {SegmentKind.EMBED, SegmentKind.ATTENTION, SegmentKind.MLP, SegmentKind.HEAD}
    found = {batch: {s.segment for s in table.segments if s.batch is batch} for batch in (None, *BatchKind)}
    assert found == {
        None: {SegmentKind.ALL_REDUCE, SegmentKind.GATHER},
        BatchKind.ENCODE: body,
        BatchKind.PREFILL: body | {SegmentKind.SAMPLE},
        BatchKind.DECODE: body | {SegmentKind.SAMPLE},
    }
    assert {sample.compute for sample in table.contention} == {SegmentKind.ATTENTION, SegmentKind.MLP}
    assert all(sample.duration_ns > 0 for sample in table.segments)
    assert table.activation_bytes == 36 * 4


def test_ranks_that_all_have_a_table_do_not_measure_again(ranks):
    first = together(ranks(epoch=1))
    again = ranks(epoch=2)
    assert together(again) == first
    assert not any(map(measured, again))


def test_a_fresh_profile_is_measured_though_all_have_one(ranks):
    together(ranks(epoch=1))
    again = ranks(epoch=2)
    one, other = together(again, fresh=True)
    assert one == other
    assert all(map(measured, again))


def test_a_table_that_one_rank_alone_has_is_measured_again_by_all(ranks):
    together(ranks(epoch=1))
    again = ranks(epoch=2)
    for path in again[1].profiles.iterdir():
        path.unlink()
    one, other = together(again)
    assert one == other
    assert all(map(measured, again))
    third = ranks(epoch=3)
    assert together(third) == [one, other]
    assert not any(map(measured, third))


def test_a_broken_file_is_told_of_and_measured_again_by_all(ranks, caplog):
    together(ranks(epoch=1))
    again = ranks(epoch=2)
    for path in again[0].profiles.iterdir():
        path.write_text("{")
    with caplog.at_level(logging.WARNING):
        one, other = together(again)
    assert "cannot be read" in caplog.text
    assert one == other
    assert all(map(measured, again))


def test_other_hardware_has_another_profile(ranks):
    (first, _) = together(ranks(epoch=1))
    again = ranks(epoch=2)
    again[1].speed = 2
    (second, _) = together(again)
    assert first.key != second.key
    assert all(map(measured, again))


def test_the_rank_with_the_fewest_blocks_bounds_what_all_measure(ranks):
    pair = ranks()
    pair[1].num_blocks = 3
    one, other = together(pair)
    assert one == other
    assert {s.num_tokens for s in one.segments if s.batch is BatchKind.DECODE} == {1}


def test_progress_tells_phases_in_order_and_ends_whole(ranks):
    pair = ranks()
    together(pair)
    phases = list(dict.fromkeys(phase for phase, _ in pair[0].said))
    assert phases == ["measuring segments", "measuring exchanges", "measuring co-runs"]
    assert [share for phase, share in pair[0].said if phase == phases[0]][-1] == 1.0


@pytest.mark.parametrize("phase", ["measuring segments", "measuring exchanges", "measuring co-runs"])
def test_an_abort_ends_measuring(ranks, phase):
    pair = ranks()

    def abort(said: str) -> None:
        if said == phase:
            for rank in pair:
                rank.aborted.set()

    def fails(rank: Rank) -> bool:
        try:
            rank.profile()
        except GroupFailedError:  # is let go of here, and its frames with what they connect
            return True
        return False

    pair[0].told = abort
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fails, pair)) == [True, True]
    assert not any(rank.profiles.exists() for rank in pair)


def test_a_rank_alone_measures_compute(ranks):
    (table,) = together(ranks(tp_size=1))
    assert {sample.batch for sample in table.segments} == set(BatchKind)
    assert table.contention == ()


def test_an_encoder_is_measured(ranks):
    one, other = together(ranks("bert-classifier"))
    assert one == other
    assert {sample.batch for sample in one.segments} == {BatchKind.ENCODE, None}


@pytest.mark.parametrize(("stage", "ends"), [(0, {SegmentKind.EMBED}), (1, {SegmentKind.HEAD, SegmentKind.SAMPLE})])
def test_a_stage_measures_what_it_holds(ranks, stage, ends):
    (table,) = together(ranks(tp_size=1, stage_layers=(2, 1), stage=stage))
    assert {sample.segment for sample in table.segments} == {SegmentKind.ATTENTION, SegmentKind.MLP} | ends
