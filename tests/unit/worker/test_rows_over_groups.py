"""Forked rows, copied and shared blocks, prompts' likelihoods and controls, over whole groups of ranks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from liger.domain import BatchKind, Sampling
from liger.schedule import BatchOutcome, BlockAppends, DecodeRows, PrefillRows, SequenceStart
from tests.support.interleaving import Layout, Track, generation
from tests.support.rank_group import running_group
from tests.support.tiny_models import MakeModel, token_ids

SHAPES = [{"tp_size": 1}, {"tp_size": 2}, {"tp_size": 2, "stage_layers": (1, 2)}]
PROMPT = token_ids(9)[0]
CHANCE = {"temperature": 1.0, "top_p": 0.95, "seed": 5, "logprobs": 2}


def run(folder: Path, *tracks: Track, seed: int | None = None, **shape: Any) -> list[list[BatchOutcome]]:
    """Return what each track's batches gave."""
    with running_group(folder, **shape) as group:
        layout = Layout(group.forwards, tracks, tp_size=shape.get("tp_size", 1))
        found = group.run_all(layout.serial() if seed is None else layout.mixed(seed))
    return [[found[batch_id] for batch_id in track.batch_ids] for track in tracks]


def starting(track: Track, *changes: dict[str, Any]) -> Track:
    """Change how a track's sequences start, one after another."""
    starts = [replace(start, **change) for start, change in zip(track.sequence_starts, changes, strict=True)]
    track.sequence_starts = tuple(starts)
    return track


def forking() -> Track:
    """Return a track where rows 1 and 2 fork from row 0 and each gets a copy of the last block, which is not full."""
    prefill = PrefillRows(
        rows=(0,),
        num_tokens=(9,),
        starts=(0,),
        token_ids=tuple(PROMPT),
        samples=(True,),
        appends=BlockAppends(rows=(0,), counts=(3,), blocks=(5, 3, 8)),
        fork_counts=(2,),
        fork_rows=(1, 2),
    )
    copies = BlockAppends(copy_rows=(1, 2), copy_sources=(8, 8), copy_targets=(1, 7))
    more = BlockAppends(rows=(0, 1, 2), counts=(1, 1, 1), blocks=(2, 4, 6))
    appends = [copies, BlockAppends(), BlockAppends(), more, BlockAppends()]
    decodes = [DecodeRows(rows=(0, 1, 2), positions=(9 + step,) * 3, appends=one) for step, one in enumerate(appends)]
    starts = [SequenceStart(row=row, sampling=Sampling(**CHANCE), sample=row, num_prompt_tokens=9) for row in range(3)]
    return Track([(BatchKind.PREFILL, prefill), *((BatchKind.DECODE, rows) for rows in decodes)], tuple(starts))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forks_draw_what_sequences_of_their_own_would(tiny_model: MakeModel, shape: dict[str, Any]) -> None:
    folder, _ = tiny_model("llama")
    alone = generation(dict.fromkeys(range(3), PROMPT), 6, **CHANCE)
    starting(alone, *({"sample": sample} for sample in range(3)))
    ((*expected,),) = run(folder, alone)
    ((*forked,),) = run(folder, forking(), **shape)
    assert [outcome.token_ids for outcome in forked] == [outcome.token_ids for outcome in expected]
    assert len({outcome.token_ids[row] for outcome in forked for row in range(3)}) > 3
    for one, other in zip(forked, expected, strict=True):
        assert [entry.token_id for entry in one.logprobs] == list(one.token_ids)
        assert [entry.logprob for entry in one.logprobs] == pytest.approx(
            [entry.logprob for entry in other.logprobs], abs=1e-5
        )


def sharing(length: int) -> Track:
    """Return a track where row 1 begins after two blocks that row 0 has computed."""
    first, second = PROMPT[:8], [*PROMPT[:8], *token_ids(length)[0]]
    batches = [
        PrefillRows(
            rows=(0,),
            num_tokens=(8,),
            starts=(0,),
            token_ids=tuple(first),
            samples=(True,),
            appends=BlockAppends(rows=(0,), counts=(2,), blocks=(4, 2)),
        ),
        PrefillRows(
            rows=(1,),
            num_tokens=(length,),
            starts=(8,),
            token_ids=tuple(second[8:]),
            samples=(True,),
            appends=BlockAppends(rows=(1,), counts=(5,), blocks=(4, 2, 7, 3, 6)),
        ),
    ]
    decodes = [DecodeRows(rows=(1,), positions=(8 + length + step,)) for step in range(3)]
    starts = [
        SequenceStart(row=row, sampling=Sampling(), sample=0, num_prompt_tokens=count)
        for row, count in enumerate((8, 8 + length))
    ]
    kinds = [BatchKind.PREFILL] * 2 + [BatchKind.DECODE] * 3
    return Track(list(zip(kinds, [*batches, *decodes], strict=True)), tuple(starts))


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("length", [1, 5])
def test_a_first_chunk_reads_what_another_sequence_computed(tiny_model: MakeModel, name: str, length: int) -> None:
    folder, _ = tiny_model(name)
    ((*expected,),) = run(folder, generation({0: [*PROMPT[:8], *token_ids(length)[0]]}, 4))
    ((_, *shared),) = run(folder, sharing(length), tp_size=2)
    assert [outcome.token_ids for outcome in shared] == [outcome.token_ids for outcome in expected]


@pytest.mark.parametrize("shape", [*SHAPES, {"tp_size": 3}], ids=str)
def test_prompts_likelihoods_are_those_of_transformers(tiny_model: MakeModel, shape: dict[str, Any]) -> None:
    folder, model = tiny_model("llama")
    prompts = dict(enumerate(token_ids(11, 6, 1, 7)))
    track = generation(prompts, 2, chunk=4)
    wanted = [3, 0, 5, None]
    starting(
        track,
        *(
            {"prompt_logprobs": count, "prompt_token_ids": tuple(prompts[row])} if count is not None else {}
            for row, count in enumerate(wanted)
        ),
    )
    ((*outcomes,),) = run(folder, track, **shape)
    expected = []
    for start in range(0, 11, 4):
        for row, prompt in prompts.items():
            with torch.inference_mode():
                logprobs = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
            places = range(start, min(start + 4, len(prompt) - 1)) if wanted[row] is not None else ()
            expected += [(prompt[place + 1], logprobs[place], wanted[row]) for place in places]
    told = [entry for outcome in outcomes for entry in outcome.prompt_logprobs]
    assert len(told) == len(expected) == 10 + 5
    for entry, (token, logprobs, count) in zip(told, expected, strict=True):
        assert entry.token_id == token
        assert entry.logprob == pytest.approx(logprobs[token].item(), abs=1e-4)
        values, ids = logprobs.topk(count)
        assert entry.top_token_ids == tuple(ids.tolist())
        assert entry.top_logprobs == pytest.approx(values.tolist(), abs=1e-4)


def controlled(row: int, prompt: list[int], **sampling: Any) -> Track:
    track = generation({row: prompt}, 8, chunk=5, **sampling)
    return starting(
        track, {"prompt_token_ids": tuple(prompt), "min_tokens": 4, "stop_token_ids": (7, 19), "sample": row}
    )


def a_mix() -> list[Track]:
    penalties = {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3}
    biases = tuple((token, 1.0) for token in range(20, 60))
    return [
        controlled(0, token_ids(6)[0], temperature=2.0, seed=1, top_p=0.99, logprobs=3, **penalties),
        controlled(1, token_ids(9)[0], temperature=1.5, seed=2, typical_p=0.9, logit_bias=biases),
        controlled(2, token_ids(3)[0], **penalties, banned_token_ids=(5, 6)),
        controlled(3, token_ids(4)[0], temperature=1.0, seed=3, allowed_token_ids=tuple(range(40, 131))),
    ]


@pytest.mark.parametrize("shape", [*SHAPES, {"tp_size": 3}, {"tp_size": 1, "stage_layers": (2, 1)}], ids=str)
@pytest.mark.parametrize("seed", [None, 4])
def test_the_same_seeds_draw_the_same_tokens_on_any_layout(
    tiny_model: MakeModel, shape: dict[str, Any], seed: int | None
) -> None:
    folder, _ = tiny_model("llama")
    expected = run(folder, *a_mix())
    got = run(folder, *a_mix(), seed=seed, **shape)
    assert [[one.token_ids for one in track] for track in got] == [
        [one.token_ids for one in track] for track in expected
    ]
