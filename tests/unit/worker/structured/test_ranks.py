"""Whole groups of ranks under constraints: samples of one prompt, interleaved, hold to them and draw alike on all."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from liger.domain import Constraint
from tests.support.interleaving import Layout, Track, generation
from tests.support.masked_drawing import json_schema, regex
from tests.support.rank_group import running_group
from tests.support.tiny_models import make_model
from tests.unit.gateway.folders import byte_level

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}
EOS = 2
PROMPT = [11, 60, 7]
NUM_TOKENS = 48
BLOCK_SIZE = 16  # so that the blocks of a row hold them with the prompt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("structured")
    settings = {"vocab_size": 419, "hidden_size": 36, "intermediate_size": 67, "num_hidden_layers": 3, "head_dim": 4}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 64, "eos_token_id": EOS}
    make_model(target, "LlamaForCausalLM", settings | heads)
    (target / "tokenizer.json").write_text(byte_level().to_str(), encoding="utf-8")
    return target


def samples(constraints: Sequence[Constraint | None], first_row: int = 0) -> Track:
    """Return a track of samples of one prompt, which must hold to something each, or to nothing."""
    rows = range(first_row, first_row + len(constraints))
    track = generation(dict.fromkeys(rows, PROMPT), NUM_TOKENS, temperature=1.5, seed=5)
    starts = [
        replace(start, sample=start.row, constraint=constraint, stop_token_ids=(EOS,))
        for start, constraint in zip(track.sequence_starts, constraints, strict=True)
    ]
    return Track(track.batches, tuple(starts))


def outputs(folder: Path, tracks: Sequence[Track], seed: int | None, tp_size: int, **shape: object) -> list[list[str]]:
    """Return the text of each sample of each track."""
    with running_group(folder, tp_size=tp_size, block_size=BLOCK_SIZE, **shape) as group:
        lay = Layout(group.forwards, tracks, tp_size=tp_size)
        found: dict[int, tuple[int, ...]] = {}
        for pattern, window in lay.serial() if seed is None else lay.mixed(seed):
            outcomes = group.run(pattern, window)
            drawing = outcomes[-tp_size:]
            assert len({outcome.sampled_digest for outcome in drawing}) == 1, "all ranks draw the same"
            found.update({batch.batch_id: batch.token_ids for one in outcomes for batch in one.batches})
    drawn = [zip(*(found[batch_id] for batch_id in track.batch_ids), strict=True) for track in tracks]
    return [[text_of(token_ids) for token_ids in track] for track in drawn]


def text_of(token_ids: Sequence[int]) -> str:
    assert EOS in token_ids, "it ended"
    text: str = byte_level().decode(list(token_ids[: token_ids.index(EOS)]))
    return text


@pytest.mark.parametrize(("tp_size", "stage_layers"), [(1, (3,)), (2, (3,)), (2, (1, 2))], ids=str)
def test_interleaved_samples_hold_to_their_schema_on_all_ranks(
    folder: Path, tp_size: int, stage_layers: tuple[int, ...]
) -> None:
    constraint = json_schema(json.dumps(SCHEMA))
    texts = [regex("(yes|no|perhaps)")] * 2

    tracks = [samples([constraint] * 3), samples(texts, first_row=3)]
    parsed, words = outputs(folder, tracks, 1, tp_size, stage_layers=stage_layers)

    for text in parsed:
        Draft202012Validator(SCHEMA).validate(json.loads(text))
    assert len(set(parsed)) > 1, "samples differ"
    assert set(words) <= {"yes", "no", "perhaps"}
    alone = outputs(folder, [samples([constraint] * 3), samples(texts, first_row=3)], None, 1)
    assert [parsed, words] == alone


def test_a_replay_draws_what_the_first_run_drew(folder: Path) -> None:
    constraint = json_schema(json.dumps(SCHEMA))
    track = samples([constraint])
    with running_group(folder, block_size=BLOCK_SIZE) as group:
        first = group.run_all(Layout(group.forwards, [track]).serial())
    token_ids = [first[batch_id].token_ids[0] for batch_id in track.batch_ids]
    given = 5
    start = replace(track.sequence_starts[0], output_token_ids=tuple(token_ids[:given]))
    whole = generation({0: [*PROMPT, *token_ids[:given]]}, NUM_TOKENS - given)
    replay = Track(whole.batches, (start,))
    with running_group(folder, block_size=BLOCK_SIZE) as group:
        second = group.run_all(Layout(group.forwards, [replay]).serial())

    end = token_ids.index(EOS) + 1
    assert [second[batch_id].token_ids[0] for batch_id in replay.batch_ids][: end - given] == token_ids[given:end]


def test_a_row_without_constraint_is_free_beside_one_that_has_one(folder: Path) -> None:
    def tokens(constraints: Sequence[Constraint | None]) -> list[tuple[int, ...]]:
        track = samples(constraints)
        with running_group(folder, tp_size=2, block_size=BLOCK_SIZE) as group:
            found = group.run_all(Layout(group.forwards, [track], tp_size=2).serial())
        return [found[batch_id].token_ids for batch_id in track.batch_ids]

    free, beside = tokens([None, None]), tokens([None, regex("yes|no")])
    assert [one[0] for one in free] == [one[0] for one in beside]
    assert [one[1] for one in free] != [one[1] for one in beside]
    assert text_of([one[1] for one in beside]) in {"yes", "no"}
