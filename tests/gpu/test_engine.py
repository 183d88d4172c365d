"""Whole ranks on devices: the answers of CPU ranks, whatever the number of ranks and however windows are launched."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from liger.domain import Pooling, PoolOutput, ScoreOutput
from tests.gpu.models import wide_llama
from tests.support.interleaving import Layout, Track, encoding, generation
from tests.support.rank_group import running_group
from tests.support.rank_processes import running_processes
from tests.support.tiny_models import MakeModel, token_ids

PROMPTS = token_ids(9, 5, 12, 3)
INPUTS = token_ids(7, 4, 11)
POOL = PoolOutput(pooling=Pooling.MEAN, normalize=False)
CUTS = {3: 2, 4: 2, 6: 3, 7: 3, 10: 20}


def a_mix() -> list[Track]:
    return [
        generation({0: PROMPTS[0], 1: PROMPTS[1]}, 12, chunk=7, logprobs=2),
        generation({2: PROMPTS[2], 3: PROMPTS[3]}, 12, temperature=0.8, seed=7),
        encoding(*INPUTS, output=POOL),
        encoding(*INPUTS, output=ScoreOutput(score_from=1)),
    ]


def devices(tp_size: int) -> list[str]:
    return [f"cuda:{rank % torch.cuda.device_count()}" for rank in range(tp_size)]


def results(group: Any, tp_size: int, seed: int | None, cuts: dict[int, int] | None = None) -> list[Any]:
    tracks = a_mix()
    lay = Layout(group.forwards, tracks, tp_size=tp_size, cuts=cuts)
    found = group.run_all(lay.serial() if seed is None else lay.mixed(seed))
    outcomes = [[found[batch_id] for batch_id in track.batch_ids] for track in tracks]
    return [[replace(outcome, batch_id=0) for outcome in track] for track in outcomes]


def tokens(outcomes: list[Any]) -> list[Any]:
    return [[outcome.token_ids for outcome in track] for track in outcomes]


def on_cpu(folder: Path) -> list[Any]:
    with running_group(folder) as group:
        return results(group, 1, None)


def check_close(found: list[Any], expected: list[Any], tolerance: float) -> None:
    assert tokens(found) == tokens(expected)
    for one, other in zip(found[2][0].items, expected[2][0].items, strict=True):
        assert one.values == pytest.approx(other.values, abs=tolerance)
    for one, other in zip(found[3][0].items, expected[3][0].items, strict=True):
        assert [each.logprob for each in one.logprobs] == pytest.approx(
            [each.logprob for each in other.logprobs], abs=tolerance
        )


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "opt-350m", "gpt2"])
def test_one_rank_gives_the_cpu_s_answers(tiny_model: MakeModel, name: str) -> None:
    folder, _ = tiny_model(name)
    with running_processes(folder, tp_size=1, devices=["cuda"]) as group:
        check_close(results(group, 1, 3), on_cpu(folder), 1e-4)


@pytest.mark.parametrize("tp_size", [2, 3])
@pytest.mark.parametrize("cuts", [None, CUTS], ids=["whole", "pieces"])
def test_ranks_with_copy_engines_give_the_cpu_s_answers(
    tiny_model: MakeModel, tp_size: int, cuts: dict[int, int] | None
) -> None:
    folder, _ = tiny_model("llama")
    with running_processes(folder, tp_size=tp_size, devices=devices(tp_size), communicator="copy-engine") as group:
        check_close(results(group, tp_size, 3, cuts), on_cpu(folder), 1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL wants a GPU a rank")
def test_ranks_with_nccl_give_the_cpu_s_answers(tiny_model: MakeModel) -> None:
    folder, _ = tiny_model("llama")
    with running_processes(folder, tp_size=2, devices=devices(2), communicator="nccl") as group:
        check_close(results(group, 2, 3), on_cpu(folder), 1e-4)


def repeated(group: Any, tp_size: int, times: int) -> list[Any]:
    """Run the mix again and again in the same windows, so that what comes again is captured; return the last."""
    tracks = [track for _ in range(times) for track in a_mix()]
    schedule, base, first = [], 0, 0
    for time in range(times):
        lay = Layout(group.forwards, tracks[time * 4 : time * 4 + 4], tp_size=tp_size)
        for pattern, window in lay.mixed(3):
            number = len(schedule) + 1
            ids = tuple(base + batch_id for batch_id in window.batch_ids)
            starts = tuple(replace(start, batch_id=base + start.batch_id) for start in window.batch_starts)
            ends = tuple(range(4)) if time and number == first else window.sequence_ends
            schedule.append(
                (pattern, replace(window, number=number, batch_ids=ids, batch_starts=starts, sequence_ends=ends))
            )
        first = len(schedule) + 1
        base += 1000
    found = group.run_all(schedule)
    last = tracks[-4:]
    ids = [[base - 1000 + batch_id for batch_id in track.batch_ids] for track in last]
    return [[replace(found[batch_id], batch_id=0) for batch_id in track] for track in ids]


@pytest.mark.parametrize("tp_size", [1, 2])
def test_captured_windows_give_what_eager_ones_give_bit_for_bit(tmp_path: Path, tp_size: int) -> None:
    folder = wide_llama(tmp_path)
    shape = {"tp_size": tp_size, "devices": devices(tp_size), "dtype": "bfloat16", "communicator": "copy-engine"}
    shape |= {"communicator": "auto"} if tp_size == 1 else {}
    with running_processes(folder, eager=True, **shape) as group:
        eager = repeated(group, tp_size, 1)
        assert group.num_graphs() == [0] * tp_size
    with running_processes(folder, **shape) as group:
        captured = repeated(group, tp_size, 4)
        if min(group.num_graphs()) == 0:
            pytest.skip("the attention here cannot be captured")
    assert captured == eager
