"""Whatever a model would like to say, what it says holds to the constraint."""

import json
import re

import pytest
from jsonschema import Draft202012Validator

from gateway.validation.structured import to_constraint
from liger.rpc.sampling import from_constraint
from tests.support.made_schemas import made_schema
from tests.support.masked_drawing import grammar, json_schema, regex

NUM_SCHEMAS = 200


def check_schemas(outputs) -> None:
    for seed in range(NUM_SCHEMAS):
        schema = made_schema(seed)
        constraint = json_schema(json.dumps(schema, ensure_ascii=False))
        assert to_constraint(from_constraint(constraint)) == constraint

        text = outputs.output(constraint, seed=seed)

        Draft202012Validator(schema).validate(json.loads(text))


def test_outputs_of_200_random_schemas_parse_and_validate(outputs):
    check_schemas(outputs)


@pytest.mark.models
def test_outputs_of_200_random_schemas_parse_and_validate_with_a_real_tokenizer(make_outputs, smollm2_folder):
    check_schemas(make_outputs(*smollm2_folder))


def test_a_model_that_likes_blanks_cannot_write_them_for_ever(outputs):
    schema = json_schema('{"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 3}')
    blank = outputs.tokens(" ") + outputs.tokens("\n")
    outputs.begin(0, schema)
    token_ids = []
    while not (allowed := set(outputs.allowed(0))) & outputs.eos_token_ids:
        liked = [token_id for token_id in blank if token_id in allowed]
        token_ids.append(liked[0] if liked else min(allowed))
        outputs.advance(0, token_ids[-1])
        assert len(token_ids) < 300

    assert len(json.loads(outputs.text(token_ids))) == 3


@pytest.mark.parametrize(
    "pattern", [r"[0-9]{3}-[0-9]{4}", r"(red|green|blue)( (red|green|blue)){0,3}", r"[^a]{5,20}", "😀{1,4}"]
)
def test_an_output_matches_its_regex_whole(outputs, pattern):
    for seed in range(10):
        assert re.fullmatch(pattern, outputs.output(regex(pattern), seed=seed), re.DOTALL)


def test_an_output_follows_its_grammar(outputs):
    sums = 'start: term ("+" term){0,5}\nterm: NUMBER | "(" start ")"\nNUMBER: /[0-9]{1,3}/'
    for seed in range(10):
        text = outputs.output(grammar(sums), seed=seed)
        assert set(text) <= set("0123456789+()")
        assert isinstance(eval(re.sub(r"\b0+(?=\d)", "", text)), int)


@pytest.mark.parametrize("rules", ['e "+" e | e e | "x" | "+"', 'e e e | e e | "x" | "y"'])
def test_a_grammar_that_grows_more_ambiguous_with_each_token_is_ended(outputs, rules):
    outputs.begin(0, grammar(f"start: e\ne: {rules}"))
    [liked] = outputs.tokens("x")
    num_tokens = 0
    while set(outputs.allowed(0)) != outputs.eos_token_ids and num_tokens < 300:
        outputs.advance(0, liked)
        num_tokens += 1

    assert 5 < num_tokens < 300  # before the work for a token grows out of bounds


def test_an_object_of_200_properties_that_it_may_leave_out_is_followed(outputs):
    names = [f"p{number}" for number in range(200)]
    constraint = json_schema(json.dumps({"type": "object", "properties": {name: {"type": "null"} for name in names}}))
    assert to_constraint(from_constraint(constraint)) == constraint

    outputs.begin(0, constraint)
    outputs.feed(0, '{"p0": null, "p19')

    assert not set(outputs.allowed(0)) <= set(outputs.eos_token_ids)


def test_an_output_may_end_only_where_it_is_complete(outputs):
    outputs.begin(0, regex("ab?"))

    assert not outputs.eos_token_ids & set(outputs.allowed(0))
    outputs.feed(0, "a")
    assert outputs.eos_token_ids <= set(outputs.allowed(0))
    outputs.feed(0, "b")
    assert outputs.eos_token_ids == set(outputs.allowed(0))
