"""Random JSON schemas whose values are of bounded length, by a seed."""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

NAMES = ["name", "age", "tags", "a b", "naïve", "x_1", 'qu"ote', "deep"]
PATTERNS = ["^[a-z]{1,6}$", "^\\d{3}-\\d{4}$", "^(yes|no|perhaps)$", "^[A-Z][a-z]{0,4}( [A-Z][a-z]{0,4})?$"]
CONSTANTS: list[Any] = [None, True, 0, -17, "x", "two words", "é😀", [], [1, "a"], {"k": None}, ""]


def made_schema(seed: int) -> Schema:
    """Return a schema; some have definitions, among them one that refers to itself."""
    chance = random.Random(seed)
    schema = _schema(chance, depth=3)
    if chance.random() < 0.3:
        leaf, node = _schema(chance, depth=1), _object(chance, 0)
        node["properties"]["next"] = {"anyOf": [{"type": "null"}, {"type": "null"}, {"$ref": "#/$defs/node"}]}
        inner = {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2}
        schema = {
            "$defs": {"leaf": leaf, "node": node},
            "type": "object",
            "properties": {"all": schema, "node": {"$ref": "#/$defs/node"}, "leaves": inner},
            "required": ["node", "leaves"],
            "additionalProperties": False,
        }
    return schema


def _schema(chance: random.Random, depth: int) -> Schema:
    plain: list[Callable[[random.Random, int], Schema]] = [
        _string,
        _pattern,
        _integer,
        _number,
        _constant,
        _enum,
        _flat,
    ]
    nested = [_object, _object, _array, _array, _any_of]
    return chance.choice(plain if depth == 0 else plain + nested * 2)(chance, depth)


def _object(chance: random.Random, depth: int) -> Schema:
    names = chance.sample(NAMES, chance.randint(0, 4))
    return {
        "type": "object",
        "properties": {name: _schema(chance, max(depth - 1, 0)) for name in names},
        "required": [name for name in names if chance.random() < 0.5],
        "additionalProperties": False,
    }


def _array(chance: random.Random, depth: int) -> Schema:
    fewest = chance.randint(0, 2)
    return {"type": "array", "items": _schema(chance, depth - 1), "minItems": fewest, "maxItems": fewest + 2}


def _any_of(chance: random.Random, depth: int) -> Schema:
    return {"anyOf": [_schema(chance, depth - 1) for _ in range(chance.randint(1, 3))]}


def _string(chance: random.Random, _: int) -> Schema:
    fewest = chance.randint(0, 3)
    return {"type": "string", "minLength": fewest, "maxLength": fewest + chance.randint(0, 12)}


def _pattern(chance: random.Random, _: int) -> Schema:
    return {"type": "string", "pattern": chance.choice(PATTERNS)}


def _integer(chance: random.Random, _: int) -> Schema:
    low = chance.randint(-1000, 1000)
    kinds: list[Schema] = [{"minimum": low, "maximum": low + chance.randint(0, 500)}]
    kinds.append({"exclusiveMinimum": low, "exclusiveMaximum": low + 2 + chance.randint(0, 50)})
    return {"type": "integer", **chance.choice(kinds)}


def _number(chance: random.Random, _: int) -> Schema:
    low = chance.randint(-100, 100)
    return {"type": "number", "minimum": low / 4, "maximum": low / 4 + chance.randint(1, 100)}


def _constant(chance: random.Random, _: int) -> Schema:
    return {"const": chance.choice(CONSTANTS)}


def _enum(chance: random.Random, _: int) -> Schema:
    return {"enum": chance.sample(CONSTANTS, chance.randint(1, 5))}


def _flat(chance: random.Random, _: int) -> Schema:
    return {"type": chance.choice(["null", "boolean", ["boolean", "null"]])}
