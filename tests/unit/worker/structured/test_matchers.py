"""Outputs of a rank: independent, replayed, and never more than an end's worth of harm."""

import threading

import pytest
import torch

from tests.support.masked_drawing import grammar, json_schema, regex
from tests.unit.worker.structured.conftest import PAD
from worker.structured.compiled import CompiledConstraints
from worker.structured.matchers import Matchers
from worker.structured.vocabulary import Vocabulary

CHAIN = "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(4500)) + 'a4500: "x"\n'


def same(one, other) -> bool:
    return one is other or torch.equal(one, other)


def test_outputs_of_one_constraint_are_independent(outputs):
    for row in range(3):
        outputs.begin(row, regex("(ab|cd)+"))
    outputs.feed(1, "a")
    outputs.feed(2, "cd")

    fresh, after_a, after_cd = (outputs.allowed(row) for row in range(3))
    assert set(outputs.tokens("a") + outputs.tokens("c")) <= set(fresh)
    assert outputs.tokens("b")[0] in after_a
    assert outputs.tokens("a")[0] not in after_a
    assert not outputs.eos_token_ids & set(fresh)
    assert outputs.eos_token_ids <= set(after_cd)


def test_a_replay_continues_where_the_output_was(outputs):
    schema = json_schema('{"type": "array", "items": {"type": "string", "maxLength": 9}, "maxItems": 4, "minItems": 2}')
    outputs.begin(0, schema)
    token_ids = outputs.draw(0, seed=3)
    outputs.begin(0, schema)
    for place, token_id in enumerate(token_ids):
        outputs.begin(1, schema, token_ids[:place])
        assert same(outputs.mask(1), outputs.mask(0))
        outputs.advance(0, token_id)


def test_after_its_end_an_output_asks_for_nothing(outputs):
    outputs.begin(0, regex("ab"))
    outputs.feed(0, "ab")
    outputs.advance(0, 2)

    assert outputs.allowed(0) is None
    outputs.feed(0, "late")
    assert outputs.allowed(0) is None
    outputs.begin(0, regex("ab"), (*outputs.tokens("ab"), 0))
    assert outputs.allowed(0) is None


def test_a_token_that_does_not_fit_leaves_only_the_end(outputs):
    outputs.begin(0, regex("ab"))
    outputs.feed(0, "x")
    assert set(outputs.allowed(0)) == outputs.eos_token_ids
    outputs.feed(0, "ab")
    assert set(outputs.allowed(0)) == outputs.eos_token_ids


def test_late_tokens_of_an_ended_sequence_never_reach_the_next(outputs):
    late = outputs.matchers.begin(regex("ab"))
    outputs.begin(0, regex("cd"))
    late.advance(outputs.tokens("c")[0])
    outputs.feed(0, "c")

    assert outputs.allowed(0) == outputs.tokens("d")
    assert set(late.mask().nonzero().flatten().tolist()) == outputs.eos_token_ids


def test_masks_are_as_wide_as_the_model_and_never_allow_ids_without_a_token(outputs):
    outputs.begin(0, regex("(?s:.*)"))
    mask = outputs.mask(0)

    assert mask.dtype is torch.bool
    assert mask.shape == (400 + PAD,)
    assert not mask[400:].any()
    assert not mask[1], "<|im_start|> is no text"


@pytest.mark.parametrize("constraint", [regex("(a"), grammar("start: b"), json_schema("{"), json_schema('{"not": {}}')])
def test_what_cannot_be_compiled_allows_only_the_end_and_is_logged_once(outputs, caplog, constraint):
    for row in range(3):
        outputs.begin(row, constraint)
        assert set(outputs.allowed(row)) == outputs.eos_token_ids
    outputs.advance(0, 2)

    assert outputs.allowed(0) is None
    assert len([record for record in caplog.records if "cannot be compiled" in record.message]) == 1


def test_a_grammar_too_deep_for_a_usual_stack_is_followed(outputs):
    assert outputs.output(grammar(CHAIN)) == "x"


@pytest.mark.parametrize("content", [None, "{", '{"model": {"type": "Nothing"}}'])
def test_a_folder_without_a_tokenizer_allows_only_the_end(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    matchers = Matchers(folder=tmp_path, vocabulary_size=10, eos_token_ids=(3, 12))
    try:
        assert matchers.begin(regex("ab")).mask().nonzero().flatten().tolist() == [3]
    finally:
        matchers.close()


def test_a_model_without_an_end_is_not_constrained(made_folder):
    matchers = Matchers(folder=made_folder, vocabulary_size=400, eos_token_ids=())
    try:
        assert matchers.begin(regex("ab")).mask() is None
    finally:
        matchers.close()


def test_a_panic_of_the_library_allows_only_the_end(outputs, monkeypatch, caplog):
    class Panic(BaseException):
        pass

    def panic(*_):
        raise Panic

    outputs.begin(0, regex("ab"))
    outputs.allowed(0)
    monkeypatch.setattr(Vocabulary, "mask", panic)
    outputs.feed(0, "a")

    assert set(outputs.allowed(0)) == outputs.eos_token_ids
    assert "a structured output failed" in caplog.text


def test_compiled_constraints_are_shared_and_bounded(made_folder):
    compiled = CompiledConstraints(Vocabulary.read(made_folder, 400, (2,)), max_kept=2)
    for pattern in ("a", "b", "a", "c", "c"):
        assert compiled.new_matcher(regex(pattern)) is not compiled.new_matcher(regex(pattern))
    assert list(compiled._kept) == [regex("a"), regex("c")], "b was longest unused"


def test_an_output_ends_by_its_own_stop_tokens_that_are_no_text(outputs):
    letter = outputs.tokens("x")[0]
    output = outputs.matchers.begin(regex("ab?"), stop_token_ids=(2, letter, 10**6))
    output.advance(outputs.tokens("a")[0])
    assert output.mask().nonzero().flatten().tolist() == sorted([2, *outputs.tokens("b")])
    output.advance(outputs.tokens("b")[0])
    assert output.mask().nonzero().flatten().tolist() == [2]
    output.advance(2)
    assert output.mask() is None


def test_a_stop_token_that_is_special_may_end_an_output_though_the_model_does_not_name_it(outputs):
    output = outputs.matchers.begin(regex("a"), stop_token_ids=(1,))
    output.advance(outputs.tokens("a")[0])
    assert output.mask().nonzero().flatten().tolist() == [1]
    output.advance(1)
    assert output.mask() is None


def test_waiting_for_masks_is_counted(made_folder):
    ticks = iter(range(0, 1000, 5))
    matchers = Matchers(folder=made_folder, vocabulary_size=400, eos_token_ids=(2,), clock_ns=lambda: next(ticks))
    try:
        output = matchers.begin(regex("ab"))
        output.mask()
        assert matchers.waited_mask_ns == 5
        output.mask()
        assert matchers.waited_mask_ns == 10
    finally:
        matchers.close()


def test_close_ends_the_thread(made_folder):
    matchers = Matchers(folder=made_folder, vocabulary_size=400, eos_token_ids=(2,))
    matchers.begin(regex("ab"))
    matchers.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("structured-output")]
