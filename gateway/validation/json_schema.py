"""JSON schemas of structured output: whether they are schemas at all, and where one cannot be compiled."""

import copy
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from jsonschema.exceptions import best_match
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from gateway.validation.meta_schema import schema_errors
from liger.errors import InvalidRequestError

FIELD: Final = "structured_output.json_schema"
MAX_DEPTH: Final = 64  # of objects and arrays inside one another
SEARCH_S: Final = 1.0  # for the place of a failure; then the deepest found so far is told
MAX_REASON: Final = 300  # characters

Path = tuple[str | int, ...]
Schema = Any  # a JSON value
CompileError = Callable[[Schema], str]  # why a schema cannot be compiled, empty if it can

_ONE: Final = (
    *("additionalProperties", "items", "contains", "propertyNames", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_MANY: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_ROOT: Final = "x-root"  # a keyword that no one knows, so that what is below is compiled only where it is referred to
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")
# How llguidance names the keyword that it cannot compile.
_KEYWORD: Final = re.compile(r"""Unimplemented keys: \["([^"]+)"|for '([^']+)'""")


def parse_schema(text: str) -> Schema:
    """Return the JSON value of a schema that is one by draft 2020-12 and refers only to itself.

    Raises:
        InvalidRequestError: It is not; says why and where.
    """
    schema = _parse(text)
    _check_depth(schema)
    error = best_match(schema_errors(schema))
    if error is not None:
        raise refused_at(tuple(error.absolute_path), error.message)
    if isinstance(schema, bool):
        raise refused_at((), "true and false say nothing of the output; {} allows any JSON")
    if "x-guidance" in schema:
        raise refused_at(("x-guidance",), "how JSON is written is not the client's to set; leave it out")
    _check_references(schema)
    return schema


def deepest_failure(schema: Schema, reason: str, compile_error: CompileError) -> tuple[Path, str]:
    """Return the deepest place at which compiling fails by itself, for the reason that the whole fails for.

    Args:
        schema: One that cannot be compiled.
        reason: Why.
        compile_error: Compiles a schema.
    """
    moved = _moved(schema)
    path: Path = ()
    seen = {path}
    until_s = time.monotonic() + SEARCH_S
    while True:
        for below in _next_places(schema, path):
            if below in seen or time.monotonic() > until_s:
                continue
            seen.add(below)
            found = compile_error({"$ref": f"#/{_ROOT}{_pointer(below)}", _ROOT: moved})
            if _is_same(found, reason):
                path, reason = below, found
                break
        else:
            return (*path, *_keyword(reason, _at(schema, path))), reason


def refused_at(path: Path, reason: str) -> InvalidRequestError:
    """Return the error for a place in a schema."""
    return InvalidRequestError(f"{FIELD} at {json_path(path)}: {shortened(reason)}", field=FIELD)


def json_path(path: Path) -> str:
    """Return a place as a JSON path, such as $.properties.age.minimum."""
    steps = (
        f"[{step}]" if isinstance(step, int) else f".{step}" if _PLAIN_NAME.fullmatch(step) else f"[{step!r}]"
        for step in path
    )
    return shortened("$" + "".join(steps))


def shortened(text: str) -> str:
    """Return a text that fits an error's message."""
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def _parse(text: str) -> Schema:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidRequestError(
            f"{FIELD} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", field=FIELD
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise InvalidRequestError(f"{FIELD} is not JSON: {shortened(str(error))}", field=FIELD) from error
    except RecursionError as error:
        raise _too_deep() from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _check_depth(schema: Schema) -> None:
    level = [schema]
    for _ in range(MAX_DEPTH + 1):
        level = [below for value in level for below in _contents(value)]
        if not level:
            return
    raise _too_deep()


def _contents(value: Schema) -> Iterable[Schema]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError(
        f"{FIELD} is nested more than {MAX_DEPTH} deep; use $defs and $ref for what is deeper", field=FIELD
    )


def _check_references(schema: Schema) -> None:
    look_up = _look_up(schema)
    for path, inner in _walk(schema):
        reference = inner.get("$ref") if isinstance(inner, dict) else None
        if reference is None:
            continue
        place = (*path, "$ref")
        if not reference.startswith("#"):
            why = "lies outside of the schema and is not fetched; put it under $defs and refer to #/$defs/…"
            raise refused_at(place, f"{reference!r} {why}")
        try:
            look_up(reference)
        except (Unresolvable, ValueError, TypeError, AttributeError) as error:  # or into what is no object or list
            raise refused_at(place, f"{reference!r} leads nowhere in the schema") from error


def _look_up(schema: Schema) -> Callable[[str], object]:
    """Return what follows references; the anchors are gathered here, as a look-up would do it anew each time."""
    resource = DRAFT202012.create_resource(schema)
    uri = resource.id() or ""
    try:
        registry: Registry[Schema] = Registry().with_resource(uri, resource)
        return registry.crawl().resolver(uri).lookup
    except ValueError as error:
        raise refused_at((), f"an $id in it is no URI: {error}") from error


def _walk(schema: Schema) -> Iterator[tuple[Path, Schema]]:
    """Give every schema inside a schema with its place, itself first."""
    left: list[tuple[Path, Schema]] = [((), schema)]
    while left:
        path, inner = left.pop()
        yield path, inner
        left += [(below, _at(inner, below[len(path) :])) for below in _below(inner, path)]


def _below(schema: Schema, path: Path) -> list[Path]:
    """Return the places of the schemas directly inside a schema."""
    if not isinstance(schema, dict):
        return []
    places: list[Path] = [(*path, key) for key in _ONE if key in schema]
    places += [(*path, key, index) for key in _MANY for index in range(len(schema.get(key, ())))]
    places += [(*path, key, name) for key in _NAMED for name in schema.get(key, ())]
    return places


def _next_places(schema: Schema, path: Path) -> list[Path]:
    """Return where the cause of a failure may lie: inside, or where the schema refers to."""
    inner = _at(schema, path)
    places = _below(inner, path)
    reference = inner.get("$ref", "") if isinstance(inner, dict) else ""
    if reference.startswith("#/"):
        target = next((place for place, _ in _walk(schema) if _pointer(place) == reference[1:]), None)
        places = [*places, *([target] if target is not None else [])]
    return places


def _moved(schema: Schema) -> Schema:
    """Return a schema whose references hold when it stands under `_ROOT`."""
    moved = copy.deepcopy(schema)
    for _, inner in _walk(moved):
        if isinstance(inner, dict) and inner.get("$ref", "").startswith("#"):
            rest = inner["$ref"][1:]
            inner["$ref"] = f"#/{_ROOT}{rest}" if rest[:1] in {"", "/"} else inner["$ref"]
    return moved


def _at(schema: Schema, path: Path) -> Schema:
    for step in path:
        schema = schema[step]
    return schema


def _pointer(path: Path) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _is_same(found: str, reason: str) -> bool:
    """Tell whether a schema inside fails for the reason of the one around it, of which it may say more."""
    return found == reason or (found.startswith("Unsatisfiable") and reason.startswith("Unsatisfiable"))


def _keyword(reason: str, schema: Schema) -> Path:
    """Return the keyword that a reason names, if the schema has it."""
    named = _KEYWORD.search(reason)
    names = [name for name in named.groups() if name] if named else []
    names += ["pattern"] if reason.startswith("regex parse error") else []
    names += ["$schema"] if reason.startswith("Resource ") else []
    names += ["format"] if reason.startswith("Unknown format") else []
    return tuple(name for name in names[:1] if isinstance(schema, dict) and name in schema)
