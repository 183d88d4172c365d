"""Whole groups of ranks as threads: whatever the order of launches, the results are those of one batch at a time."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from liger.domain import ClassifyOutput, Lane, Pooling, PoolOutput, ScoreOutput
from liger.errors import ScheduleRefusedError
from liger.schedule import BatchOutcome, Pattern, Window
from tests.support.forwards import pattern_of, window_of
from tests.support.interleaving import Layout, Track, encoding, generation
from tests.support.rank_group import RankGroup, running_group
from tests.support.tiny_models import MakeModel, token_ids

PROMPTS = token_ids(9, 5, 12, 3)
INPUTS = token_ids(7, 4, 11)
POOL = PoolOutput(pooling=Pooling.MEAN, normalize=False)
CUTS = {3: 2, 4: 2, 6: 3, 7: 3, 10: 20}  # MLPs with their exchanges, and the exchanges behind attention


def a_mix() -> list[Track]:
    return [
        generation({0: PROMPTS[0], 1: PROMPTS[1]}, 5, chunk=7, logprobs=2),
        generation({2: PROMPTS[2], 3: PROMPTS[3]}, 4, temperature=0.8, seed=7),
        encoding(*INPUTS, output=POOL),
        encoding(*INPUTS, output=ScoreOutput(score_from=1)),
    ]


def results(group: RankGroup, tracks: list[Track], tp_size: int, seed: int | None, **layout: Any) -> list[object]:
    """Return all that the tracks' batches gave, floats to the bit, in an order that does not depend on the windows."""
    lay = Layout(group.forwards, tracks, tp_size=tp_size, **layout)
    found = group.run_all(lay.serial() if seed is None else lay.mixed(seed))
    outcomes = [[found[batch_id] for batch_id in track.batch_ids] for track in tracks]
    return [[replace(outcome, batch_id=0) for outcome in track] for track in outcomes]


def run(folder: Path, seed: int | None = None, *, tracks: list[Track] | None = None, **shape: Any) -> list[Any]:
    layout = {"cuts": shape.pop("cuts", None)}
    with running_group(folder, **shape) as group:
        return results(group, tracks or a_mix(), shape.get("tp_size", 1), seed, **layout)


def tokens(outcomes: list[list[BatchOutcome]]) -> list[list[tuple[int, ...]]]:
    return [[outcome.token_ids for outcome in track] for track in outcomes]


@pytest.mark.parametrize("cuts", [None, CUTS], ids=["whole", "pieces"])
@pytest.mark.parametrize("tp_size", [1, 2])
def test_interleaved_batches_give_bit_for_bit_what_they_give_alone(
    tiny_model: MakeModel, tp_size: int, cuts: dict[int, int] | None
) -> None:
    folder, _ = tiny_model("llama")
    alone = run(folder, tp_size=tp_size, cuts=cuts)
    for seed in (1, 2):
        assert run(folder, seed, tp_size=tp_size, cuts=cuts) == alone


@pytest.mark.parametrize("name", ["llama", "opt-350m", "gpt2"])
def test_pieces_give_nearly_what_whole_segments_give(tiny_model: MakeModel, name: str) -> None:
    folder, _ = tiny_model(name)
    whole, cut = (run(folder, tp_size=2, cuts=cuts) for cuts in (None, CUTS))
    assert tokens(cut) == tokens(whole)
    for one, other in zip(cut[2][0].items, whole[2][0].items, strict=True):
        assert one.values == pytest.approx(other.values, abs=1e-5)


def test_three_ranks_agree_on_interleaved_tokens(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("qwen3")
    assert tokens(run(folder, 3, tp_size=3)) == tokens(run(folder))


@pytest.mark.parametrize("name", ["llama", "mistral", "opt-350m"])
@pytest.mark.parametrize(("tp_size", "stage_layers"), [(1, (1, 2)), (1, (2, 1)), (1, (1, 1, 1)), (2, (1, 2))], ids=str)
def test_stages_generate_what_one_rank_generates(
    tiny_model: MakeModel, name: str, tp_size: int, stage_layers: tuple[int, ...]
) -> None:
    folder, _ = tiny_model(name)
    alone = run(folder)
    staged = run(folder, 5, tp_size=tp_size, stage_layers=stage_layers)
    assert tokens(staged) == tokens(alone)
    for one, other in zip(staged[2][0].items, alone[2][0].items, strict=True):
        assert one.values == pytest.approx(other.values, abs=1e-5)


@pytest.mark.parametrize("tp_size", [1, 2])
def test_pieces_and_stages_go_together_bit_for_bit(tiny_model: MakeModel, tp_size: int) -> None:
    folder, _ = tiny_model("llama")
    shape = {"tp_size": tp_size, "stage_layers": (2, 1), "cuts": {3: 2, 4: 2, 7: 3}}
    assert run(folder, 8, **shape) == run(folder, **shape)


def test_an_encoder_runs_in_stages(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("bert-classifier")

    def classify(*args: Any, **shape: Any) -> list[Any]:
        tracks = [encoding(ids, output=ClassifyOutput()) for ids in INPUTS]
        return [track[0].items[0].values for track in run(folder, *args, tracks=tracks, **shape)]

    alone = classify()
    for one, other in zip(classify(3, tp_size=2, stage_layers=(1, 2)), alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_each_rank_of_a_stage_keeps_keys_of_its_own_layers_alone(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")
    with running_group(folder, stage_layers=(1, 2), kv_cache_gib=0.00005) as group:
        first, second = group.joined
    assert first.num_blocks == pytest.approx(2 * second.num_blocks, abs=2)
    assert first.forwards == second.forwards


def a_window(group: RankGroup, tp_size: int, seed: int = 1, **window: Any) -> tuple[Pattern, Window]:
    tracks = [encoding(*INPUTS, output=POOL), encoding(*INPUTS[:2], output=POOL)]
    for pattern, one in Layout(group.forwards, tracks, tp_size=tp_size).mixed(seed, most=10, **window):
        if len(one.batch_ids) == 2:
            return pattern, one
    raise AssertionError("no window has both batches")


def test_swapped_launches_have_another_digest_on_the_rank_that_swapped(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")
    with running_group(folder, tp_size=2) as group:
        pattern, window = a_window(group, 2)
        place = next(
            place
            for place, (one, other) in enumerate(pairwise(pattern.steps))
            if one.operand != other.operand and one.lane is other.lane is Lane.COMPUTE
        )
        steps = list(pattern.steps)
        steps[place], steps[place + 1] = steps[place + 1], steps[place]
        swapped = pattern_of(steps, *pattern.operands)
        right, wrong = group.run_apart([(pattern, window), (swapped, window)])
    assert right.launched_digest != wrong.launched_digest


def test_a_timed_window_tells_when_each_step_ran(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")
    with running_group(folder, tp_size=2) as group:
        tracks = [encoding(*INPUTS, output=POOL), encoding(*INPUTS, output=POOL)]
        windows = list(Layout(group.forwards, tracks, tp_size=2).mixed(4, timed=True))
        acknowledged = [group.run(*window) for window in windows]
    steps = {(window.number, place): step for pattern, window in windows for place, step in enumerate(pattern.steps)}
    for rank in range(2):
        timings = [outcomes[rank].timings for outcomes in acknowledged]
        spans = [span for one in timings for span in one.spans]
        assert len({(span.window, span.step) for span in spans}) == len(spans)
        computed = [span for span in spans if steps[span.window, span.step].lane is Lane.COMPUTE]
        exchanged = [span for span in spans if steps[span.window, span.step].lane is Lane.COMMUNICATION]
        assert len(computed) == sum(step.lane is Lane.COMPUTE for step in steps.values())
        assert sum(span.end_ns - span.begin_ns for span in computed) == sum(one.compute_ns for one in timings)
        assert sum(span.end_ns - span.begin_ns for span in exchanged) == sum(one.communication_ns for one in timings)
        ordered = sorted(exchanged, key=lambda span: span.begin_ns)
        assert all(one.end_ns <= other.begin_ns for one, other in pairwise(ordered))


def test_a_window_that_is_not_timed_tells_no_spans(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")
    with running_group(folder) as group:
        (outcome,) = group.run(*a_window(group, 1))
    assert outcome.timings.spans == ()
    assert len(outcome.timings.batch_compute_ns) == len(outcome.timings.batch_exposed_ns) == 2


def test_only_the_last_stage_speaks_of_tokens_and_its_first_rank_brings_results(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")
    with running_group(folder, tp_size=2, stage_layers=(2, 1)) as group:
        (pattern, window), *_ = Layout(group.forwards, [generation({0: PROMPTS[0]}, 1)], tp_size=2).serial()
        outcomes = group.run(pattern, window)
    assert [len(outcome.batches) for outcome in outcomes] == [0, 0, 1, 0]
    assert [outcome.sampled_digest for outcome in outcomes[:2]] == [0, 0]
    assert outcomes[2].sampled_digest == outcomes[3].sampled_digest != 0
    assert outcomes[0].launched_digest == outcomes[1].launched_digest != outcomes[2].launched_digest


def test_what_was_sent_first_may_be_received_last(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")

    def tracks() -> list[Track]:
        return [encoding(ids, output=POOL) for ids in INPUTS[:2]]

    alone = run(folder, tracks=tracks())
    with running_group(folder, stage_layers=(1, 2)) as group:
        (first, start), (second, later) = Layout(group.forwards, tracks()).serial()
        receive = next(place for place, step in enumerate(first.steps) if step.participants == (1,))
        between = [replace(step, operand=1) for step in second.steps]
        steps = [*first.steps[:receive], *between, *first.steps[receive:]]
        pattern = pattern_of(steps, *first.operands, *second.operands)
        starts = (*start.batch_starts, *later.batch_starts)
        found = group.run(pattern, window_of(pattern, 1, (1, 2), starts))[1].batches
    for one, (other,) in zip(found, alone, strict=True):
        assert one.items[0].values == pytest.approx(other.items[0].values, abs=1e-5)


def test_a_batch_of_rows_that_no_sequence_holds_is_refused(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")
    with running_group(folder) as group:
        (pattern, window), *_ = Layout(group.forwards, [generation({0: PROMPTS[0]}, 1)]).serial()
        with pytest.raises(ScheduleRefusedError, match=r"no sequence holds rows \[0\]"):
            group.run(pattern, replace(window, sequence_starts=()))


def test_without_exchanges_all_ranks_draw_the_same(tiny_model: MakeModel, caplog: pytest.LogCaptureFixture) -> None:
    folder, _ = tiny_model("llama")
    tracks = [generation({0: PROMPTS[0]}, 3), generation({1: PROMPTS[1]}, 3)]
    with running_group(folder, tp_size=2, stage_layers=(1, 2), communicator="null") as group:
        for pattern, window in Layout(group.forwards, tracks, tp_size=2).mixed(2):
            outcomes = group.run(pattern, window)
            assert outcomes[2].sampled_digest == outcomes[3].sampled_digest
            assert all(outcome.timings.communication_ns == 0 for outcome in outcomes)
    assert "all outputs are meaningless" in caplog.text
