"""Builds a service's frozen config from flags, environment and file, in that order of precedence.

A config is a keyword-only frozen dataclass; the docstring under a field is its help text. A field `max_batch_tokens`
of the service `controller` is `--max-batch-tokens`, `LIGER_CONTROLLER_MAX_BATCH_TOKENS`, and `max_batch_tokens` in the
TOML file that `--config` names.
"""

import argparse
import ast
import dataclasses
import inspect
import os
import textwrap
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from liger.errors import ConfigError

ConfigT = TypeVar("ConfigT")


def build_config(
    kind: type[ConfigT], service: str, argv: Sequence[str], environ: Mapping[str, str] = os.environ
) -> ConfigT:
    """Build and validate the config of a service.

    Args:
        kind: A frozen dataclass whose `__post_init__` raises ConfigError for bad values.
        service: Such as "gateway": names the program and the environment variables.
        argv: Command line without the program's name.
        environ: Environment variables.

    Raises:
        ConfigError: A value is unknown, of the wrong type, missing or out of range.
        SystemExit: `--help` was asked for, or a flag is unknown (exit code 2).
    """
    flags = vars(_parser(kind, service).parse_args(argv))
    values: dict[str, Any] = {}
    if (path := flags.pop("config")) is not None:
        values.update(_from_file(kind, Path(path)))
    hints = typing.get_type_hints(kind)
    for name, hint in hints.items():
        variable = f"LIGER_{service.upper()}_{name.upper()}"
        if variable in environ:
            values[name] = _parse(hint, environ[variable], variable)
    values.update({name: _parse(hints[name], text, _flag(name)) for name, text in flags.items() if text is not None})
    missing = [_flag(f.name) for f in _fields(kind) if _is_required(f) and f.name not in values]
    if missing:
        raise ConfigError(f"{service} needs {', '.join(missing)}; see --help")
    return kind(**values)


def field_help(kind: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    if not isinstance(body, ast.ClassDef):
        raise TypeError(f"{kind} is not a class")
    found = {}
    for statement, follower in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            is_text = isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant)
            if is_text:
                found[statement.target.id] = inspect.cleandoc(str(follower.value.value))  # type: ignore[attr-defined]
    return found


def _parser(kind: type, service: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {service}",
        description=inspect.cleandoc(kind.__doc__ or ""),
        epilog=f"Each flag can also be set as LIGER_{service.upper()}_… in the environment or in the --config file.",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with values for the flags below")
    texts = field_help(kind)
    hints = typing.get_type_hints(kind)
    for field in _fields(kind):
        default = "" if _is_required(field) or field.default is None else f" (default: {_show(field.default)})"
        text = (texts[field.name] + default).replace("%", "%%")
        if hints[field.name] is bool:
            parser.add_argument(_flag(field.name), nargs="?", const="true", default=None, metavar="BOOL", help=text)
        else:
            parser.add_argument(_flag(field.name), default=None, metavar=_metavar(hints[field.name]), help=text)
    return parser


def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _show(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or "empty"


def _inner(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return next(part for part in hint.__args__ if part is not type(None))
    return hint


def _metavar(hint: Any) -> str:
    return {int: "N", float: "X", Path: "PATH"}.get(_inner(hint), "TEXT")


def _parse(hint: Any, text: str, source: str) -> Any:
    kind = _inner(hint)
    if kind is bool:
        if text.lower() not in {"true", "false", "1", "0", "yes", "no"}:
            raise ConfigError(f"{source} takes true or false, not {text!r}")
        return text.lower() in {"true", "1", "yes"}
    try:
        return kind(text)
    except ValueError as error:
        wanted = {int: "a whole number", float: "a number"}.get(kind, f"a {kind.__name__}")
        raise ConfigError(f"{source} takes {wanted}, not {text!r}") from error


def _from_file(kind: type, path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {path} is not TOML: {error}") from error
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        known = ", ".join(hints)
        raise ConfigError(f"the config file {path} has unknown settings: {', '.join(unknown)}; known: {known}")
    return {name: _parse(hints[name], str(value), f"{name} in {path}") for name, value in table.items()}
