"""JSON Schema's own schema, draft 2020-12, checked in time linear in a schema's length."""

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing import Registry
from referencing.jsonschema import DRAFT202012

_ROOT: Final = "https://json-schema.org/draft/2020-12/schema"
_DRAFT: Final = "https://json-schema.org/draft/2020-12/"


def schema_errors(schema: Any) -> Iterator[ValidationError]:
    """Give what a JSON value breaks of the rules for schemas."""
    return _validator().iter_errors(schema)


@cache
def _validator() -> Validator:
    linear: type[Validator] = extend(Draft202012Validator, {"uniqueItems": _unique_items})  # type: ignore[no-untyped-call]
    # A validator turns into jsonschema's own, without the rule above, wherever it meets a known $schema.
    plain = {uri: _without_dialect(REGISTRY[uri].contents) for uri in REGISTRY if uri.startswith(_DRAFT)}
    registry: Registry[Any] = Registry().with_resources(
        (uri, DRAFT202012.create_resource(contents)) for uri, contents in plain.items()
    )
    return linear(plain[_ROOT], registry=registry.crawl())


def _without_dialect(contents: Any) -> dict[str, Any]:
    return {key: value for key, value in contents.items() if key != "$schema"}


def _unique_items(_validator: Validator, unique: bool, items: Any, _schema: Any) -> Iterator[ValidationError]:
    """Refuse strings that come twice: schemas ask this of lists of strings alone, and other items are refused anyway.

    jsonschema compares each with each if they are of several types.
    """
    if not unique or not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        return
    if len(set(items)) < len(items):
        yield ValidationError(f"{items!r} has non-unique elements")
