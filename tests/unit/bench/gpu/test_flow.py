from collections import Counter
from dataclasses import replace

import pytest

from bench.gpu.data_plane import encode_track
from bench.gpu.flow import Flow, Laid, Track
from bench.gpu.rank_engine import NUM_SLOTS
from bench.made_model import made_forwards, made_profile
from controller.core.cost_model import CostModel
from controller.core.plan import Strategy, Topology
from controller.core.planner import Planner
from liger.domain import BatchKind, Sampling
from liger.schedule import BlockAppends, DecodeRows, PrefillRows, SequenceStart
from tests.support.forwards import FENCE
from worker.guard import WindowGuard
from worker.kv_hazards import KvHazards

FORWARDS = made_forwards(4)
BLOCK = 16


def make_flow(depth: int) -> Flow:
    strategy = Strategy.TENSOR if depth == 1 else Strategy.INTERLEAVED
    costs = CostModel(made_profile(floor_ns=20_000, token_ns=1_000))
    planner = Planner(FORWARDS, strategy=strategy, topology=Topology(tp_size=2), costs=costs)
    return Flow(planner, costs, depth=depth, fence=FENCE)


def encodes(depth: int) -> list[Track]:
    return [encode_track(slot, 512, 8) for slot in range(depth)]


def decodes(name: str, rows: range) -> Track:
    def step(number: int) -> DecodeRows:
        return DecodeRows(rows=tuple(rows), positions=(32 + number,) * len(rows))

    return Track(name=name, kind=BatchKind.DECODE, rows=step, num_tokens=len(rows))


def prompt(row: int, every: int) -> Track:
    rows = PrefillRows(rows=(row,), num_tokens=(64,), starts=(0,), token_ids=(1,) * 64, samples=(False,))
    return Track(
        name="prefill", kind=BatchKind.PREFILL, rows=lambda _: rows, num_tokens=64, beside="decode", every=every
    )


def guarded(laid: list[Laid], guard: WindowGuard | None = None) -> WindowGuard:
    """Admit all windows as a rank does."""
    guard = guard or WindowGuard(
        fence=FENCE, forwards=FORWARDS, num_slots=NUM_SLOTS, tp_size=2, pp_size=1, hazards=KvHazards(BLOCK)
    )
    for one in laid:
        guard.learn(one.pattern)
        guard.admit(one.window)
    return guard


def begun_with_rows(flow: Flow, num_rows: int) -> list[Laid]:
    """Let rows begin, with four blocks each, the first two written."""
    rows = tuple(range(num_rows))
    starts = [SequenceStart(row=row, sampling=Sampling(), sample=0, num_prompt_tokens=32) for row in rows]
    appends = BlockAppends(rows=rows, counts=(4,) * num_rows, blocks=tuple(range(4 * num_rows)))
    first = PrefillRows(
        rows=rows,
        num_tokens=(32,) * num_rows,
        starts=(0,) * num_rows,
        token_ids=(1,) * (32 * num_rows),
        samples=(True,) * num_rows,
        appends=appends,
    )
    track = Track(name="first", kind=BatchKind.PREFILL, rows=lambda _: first, num_tokens=32 * num_rows)
    return flow.lay([track], 1, begin=starts)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_two_ranks_lay_the_same_windows(depth):
    ours, theirs = make_flow(depth), make_flow(depth)
    for _ in range(3):
        assert ours.lay(encodes(depth), 10) == theirs.lay(encodes(depth), 10)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_flow_that_is_laid_again_has_the_same_patterns_so_that_captured_graphs_fit(depth):
    flow = make_flow(depth)
    first, second = (flow.lay(encodes(depth), 10) for _ in range(2))
    assert [one.pattern for one in first] == [one.pattern for one in second]
    assert second[0].window.number == first[-1].window.number + 1


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_ranks_admit_every_window_and_all_batches_end(depth):
    flow = make_flow(depth)
    laid = flow.lay(encodes(depth), 10) + flow.lay(encodes(depth), 10)
    guarded(laid)
    assert sum(len(one.begun) for one in laid) == sum(len(one.ended) for one in laid) == 20
    assert sum(one.work for one in laid) == pytest.approx(20)


def test_serial_windows_hold_one_whole_batch_each():
    laid = make_flow(1).lay(encodes(1), 5)
    assert [one.work for one in laid] == pytest.approx([1.0] * 5)
    assert all(len(one.window.batch_ids) == 1 for one in laid)


def test_interleaved_windows_hold_segments_of_several_batches():
    laid = make_flow(2).lay(encodes(2), 10)
    assert max(len(one.window.batch_ids) for one in laid) == 2
    assert any(one.is_full for one in laid)
    assert not laid[-1].is_full


def test_a_step_of_a_sequence_begins_after_the_one_before_has_ended():
    flow = make_flow(2)
    begin = begun_with_rows(flow, 8)
    laid = flow.lay([decodes("first", range(4)), decodes("second", range(4, 8))], 12)
    guarded(laid, guarded(begin))  # its hazards would refuse two writers of a block
    under_way: Counter[str] = Counter()
    for one in laid:
        under_way.update(one.begun)
        assert max(under_way.values()) == 1
        under_way.subtract(one.ended)


@pytest.mark.parametrize(("depth", "every"), [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_chunks_keep_their_distance_in_steps(depth, every):
    flow = make_flow(depth)
    begin = begun_with_rows(flow, 5)
    laid = flow.lay([decodes("decode", range(4)), prompt(4, every)], 12)
    guarded(laid, guarded(begin))
    begun = Counter(name for one in laid for name in one.begun)
    assert begun["decode"] == 12
    assert 1 <= begun["prefill"] <= 12 // every
    steps = chunks = 0
    for one in laid:
        steps, chunks = steps + one.begun.count("decode"), chunks + one.begun.count("prefill")
        assert chunks * every <= steps


def test_flows_of_one_engine_go_on_with_its_numbers():
    flow = make_flow(2)
    first = flow.lay(encodes(2), 4)
    flow.num_windows += 10  # another depth's flow ran on the same engine meanwhile
    second = flow.lay(encodes(2), 4)
    assert second[0].window.number == first[-1].window.number + 11
    assert replace(second[0].window, number=0, batch_ids=(), batch_starts=(), order_digest=0) == replace(
        first[0].window, number=0, batch_ids=(), batch_starts=(), order_digest=0
    )
