"""What structured output is refused for, and where; what passes is what ranks compile."""

import json

import pytest
from referencing import Registry

from gateway.validation.json_schema import parse_schema
from gateway.validation.structured import to_constraint
from liger.domain import Constraint, ConstraintKind
from liger.errors import InvalidRequestError
from liger.v1 import types_pb2


def refusal(**message):
    with pytest.raises(InvalidRequestError) as refused:
        to_constraint(types_pb2.StructuredOutput(**message))
    return refused.value


def nested(depth):
    return '{"items":' * depth + "{}" + "}" * depth


def chain_of_references(length):
    names = {f"a{i}": {"items": {"$ref": f"#/$defs/a{i + 1}"}} for i in range(length)}
    return json.dumps({"$ref": "#/$defs/a0", "$defs": {**names, f"a{length}": {}}}, separators=(",", ":"))


BAD_SCHEMAS = {
    "empty": ("", "is empty"),
    "blank": (" \n", "is empty"),
    "not JSON": ('{"type": "string",\n}', "line 2, column 1"),
    "cut off": ('{"type": ', "line 1, column 10"),
    "a number that JSON has not": ('{"minimum": NaN}', "NaN"),
    "a number of 5,000 digits": ('{"minimum": ' + "1" * 5000 + "}", "is not JSON"),
    "half a surrogate": ('{"type": "string", "title": "\\ud800"}', "at $: "),
    "not a schema": ("3", "at $: 3 is not of type"),
    "a boolean": ("false", "at $: "),
    "a wrong type": ({"type": "strin"}, "at $.type: 'strin'"),
    "a wrong type in a list": ({"type": ["string", "strin"]}, "at $.type[1]: 'strin'"),
    "a wrong minimum": ({"properties": {"age": {"minimum": "x"}}}, "at $.properties.age.minimum: 'x'"),
    "a name with blanks": ({"properties": {"a b": {"type": 3}}}, "at $.properties['a b'].type: 3"),
    "properties in a list": ({"anyOf": [{}, {"properties": []}]}, "at $.anyOf[1].properties: "),
    "a remote reference": ({"items": {"$ref": "http://x/y"}}, "at $.items.$ref: 'http://x/y' lies outside"),
    "a file": ({"items": {"$ref": "file:///etc/passwd"}}, "at $.items.$ref: "),
    "an unknown dialect": ({"$schema": "http://x/y", "type": "null"}, "at $.$schema: "),
    "a reference to nowhere": ({"properties": {"a": {"$ref": "#/$defs/a"}}}, "at $.properties.a.$ref: "),
    "an unknown anchor": ({"$ref": "#nowhere"}, "at $.$ref: '#nowhere' leads nowhere"),
    "a reference into a number": (
        {"minLength": 3, "$ref": "#/minLength/a"},
        "at $.$ref: '#/minLength/a' leads nowhere",
    ),
    "a reference by no index": ({"anyOf": [{}], "$ref": "#/anyOf/x"}, "at $.$ref: '#/anyOf/x' leads nowhere"),
    "an identity that is none": ({"items": {"$id": "http://["}, "$id": "http://x/"}, "an $id in it is no URI"),
    "a name required twice": ({"items": {"required": ["a", "a"]}}, "at $.items.required: ['a', 'a'] has non-unique"),
    "one type twice": ({"type": ["null", "null"]}, "at $.type: "),
    "thousands of types of items": ({"required": [*range(8000), "a"]}, "at $.required[7999]: 7999 is not of type"),
    "a reference that is none": ({"items": {"$ref": 3}}, "at $.items.$ref: 3 is not of type"),
    "nothing but itself": ({"$ref": "#"}, "at $: Unsatisfiable"),
    "nested 70 deep": (nested(70), "nested more than 64 deep"),
    "lists nested 30,000 deep": ("[" * 30_000, "nested more than 64 deep"),
    "nested 10,000 deep": (nested(10_000), "100,002 bytes; at most 65,536"),
    "huge": ({"enum": ["x" * 70_000]}, "at most 65,536"),
    "a keyword that is not compiled": (
        {"properties": {"a": {"type": "array", "items": {"type": "array", "uniqueItems": True}}}},
        'at $.properties.a.items.uniqueItems: Unimplemented keys: ["uniqueItems"]',
    ),
    "such a keyword where a reference leads": (
        {"items": {"$ref": "#/$defs/b"}, "$defs": {"b": {"not": {"type": "null"}}}},
        "at $.$defs.b.not: ",
    ),
    "an unknown format": ({"items": {"format": "rhyme", "type": "string"}}, "at $.items.format: "),
    "a look-ahead": (
        {"items": {"pattern": "a(?=b)", "type": "string"}},
        "at $.items.pattern: look-around, including look-ahead and look-behind, is not supported at character 2",
    ),
    "bounds that cross": (
        {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}}},
        "at $.properties.a: Unsatisfiable schema: minimum (5) is greater than maximum (3)",
    ),
    "nothing to choose from": ({"enum": []}, "at $: Unsatisfiable"),
    "a sum too large": ({"items": {"type": "integer", "multipleOf": 1_000_000_007}}, "at $.items: fuel exhausted"),
    "another way to write JSON": ({"x-guidance": {"lenient": True}}, "at $.x-guidance: "),
}


@pytest.mark.parametrize("name", BAD_SCHEMAS)
def test_a_bad_schema_is_refused_with_its_place(name):
    schema, place = BAD_SCHEMAS[name]

    error = refusal(json_schema=schema if isinstance(schema, str) else json.dumps(schema))

    assert error.field == "structured_output.json_schema"
    assert place in error.message
    assert len(error.message) < 1000


@pytest.mark.parametrize(
    ("regex", "told"),
    [
        ("", "is empty"),
        ("ab(c", "unclosed group at character 3 of 'ab(c'"),
        ("é[a-", "unclosed character class at character 2"),
        ("(?=a)b", "look-ahead"),
        (r"(a)\1", "backreferences are not supported at character 4"),
        ("a$b", "lookarounds not supported"),
        ("(" * 1000 + ")" * 1000, "nested parentheses"),
        (r"[^\s\S]", "no output can fulfil it"),
        ("x" * 70_000, "at most 65,536"),
    ],
)
def test_a_bad_regex_is_refused_with_its_place(regex, told):
    error = refusal(regex=regex)

    assert error.field == "structured_output.regex"
    assert told in error.message


@pytest.mark.parametrize(
    ("grammar", "told"),
    [
        ("", "is empty"),
        ('x: "a"', "no start rule found"),
        ('start: "a"\nb: ((\n', "line 2, column 6: Expected token ')'"),
        ('x: "a"\nstart: x b', 'line 2, column 8: unknown name: "b"'),
        ('x: "a"\nstart: /(a/', "line 2, column 8: unclosed group at character 1 of '(a'"),
        ('start: %json {"type": "strin"}', "Invalid type: strin"),
        ("start: start", "no output can fulfil it"),
        ("start: " + "(" * 1000 + '"a"' + ")" * 1000, "too deeply nested"),
        ('start: "a" <|im_end|>', "names tokens of a tokenizer"),
        ('start: "a" <[1-200]>', "names tokens of a tokenizer"),
        ("start: @elsewhere", "unknown grammar @elsewhere"),
        (f"start: /{'x' * 70_000}/", "at most 65,536"),
    ],
)
def test_a_bad_grammar_is_refused_with_its_place(grammar, told):
    error = refusal(grammar=grammar)

    assert error.field == "structured_output.grammar"
    assert told in error.message


def test_no_constraint_at_all_is_refused():
    assert refusal().field == "structured_output"


CHAIN_OF_RULES = "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(4500)) + 'a4500: "x"\n'


@pytest.mark.parametrize(
    "message",
    [
        {"regex": "(a{1,1000}){1,1000}"},
        {"regex": "(?:(?:a{1000}){1000}){1000}"},
        {"regex": r"(\w{1,500}x){1,500}"},
        {"regex": "a{1000000000}"},
        {"grammar": 'start: x{1,1000}\nx: y{1,1000}\ny: "a"{1,1000}'},
        {"grammar": CHAIN_OF_RULES},  # llguidance follows rules by recursion: on a usual stack it would crash
        {"json_schema": chain_of_references(1400)},  # so would this
        {"json_schema": json.dumps({"enum": list(range(9000))})},
        {"json_schema": json.dumps({"type": "string", "maxLength": 2**31})},
        {"json_schema": json.dumps({"type": "array", "minItems": 10**18})},
        {"json_schema": nested(63)},
    ],
    ids=lambda message: f"{message}"[:40],
)
def test_a_constraint_of_hostile_size_is_compiled_without_harm(message):
    assert to_constraint(types_pb2.StructuredOutput(**message)).text == next(iter(message.values()))


def test_items_of_several_types_are_not_compared_with_each_other(monkeypatch):
    def uniq(_items):
        raise AssertionError("quadratic")

    monkeypatch.setattr("jsonschema._keywords.uniq", uniq)
    for schema in ({"required": [0, "a"]}, {"type": [0, "a"]}, {"dependentRequired": {"a": [0, "a"]}}):
        assert "is not" in refusal(json_schema=json.dumps({"items": schema})).message


def test_anchors_are_gathered_once_for_all_references(monkeypatch):
    crawls = []
    crawl = Registry.crawl
    monkeypatch.setattr(Registry, "crawl", lambda self: (crawls.append(1), crawl(self))[1])

    parse_schema('{"type": "null"}')  # makes what is made once
    crawls.clear()
    parse_schema(json.dumps({"$defs": {"a": {"$anchor": "a"}}, "anyOf": [{"$ref": "#a"}] * 100}))

    assert len(crawls) == 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ConstraintKind.JSON_SCHEMA, "{}"),
        (ConstraintKind.JSON_SCHEMA, '{"properties": {"$ref": {"type": "string"}, "x-guidance": {}}}'),
        (ConstraintKind.JSON_SCHEMA, '{"$defs": {"a~b/c%": {"type": "null"}}, "$ref": "#/$defs/a~0b~1c%25"}'),
        (ConstraintKind.JSON_SCHEMA, '{"type": "object", "properties": {"next": {"$ref": "#"}}}'),
        (ConstraintKind.JSON_SCHEMA, '{"type": "string", "pattern": "^\\\\p{L}+$"}'),  # Python's re has no \p
        (ConstraintKind.JSON_SCHEMA, '{"enum": [{"$ref": "http://x/y"}]}'),  # a value, not a reference
        (ConstraintKind.REGEX, "^(yes|no)/\n$"),
        (ConstraintKind.GRAMMAR, 'start: "yes" | "no"'),
    ],
)
def test_a_constraint_that_can_be_compiled_is_passed_on_as_it_is(kind, text):
    assert to_constraint(types_pb2.StructuredOutput(**{kind.value: text})) == Constraint(kind=kind, text=text)
