"""Typed reading of config.json: every wrong value is an error that names the file, the setting and the mend."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from liger.errors import ModelFolderError


class Settings:
    """The settings of one JSON file.

    Args:
        values: The file's object.
        source: Path of the file, for errors.
    """

    def __init__(self, values: Mapping[str, Any], source: Path) -> None:
        self._values = values
        self.source = source

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def names(self) -> tuple[str, ...]:
        """Return the names of all settings."""
        return tuple(self._values)

    def raw(self, name: str, default: object = None) -> Any:
        """Return a setting as JSON gave it."""
        return self._values.get(name, default)

    def integer(self, name: str, default: int | None = None, *, at_least: int = 1) -> int:
        """Return a whole number; null counts as missing."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise self.wrong(name, f"must be a whole number of at least {at_least}")
        return value

    def divide(self, name: str, total: int, parts: int) -> int:
        """Return total / parts, an error of setting `name` if it does not come out even."""
        if total % parts:
            raise self.wrong(name, f"must be a multiple of the {parts} heads")
        return total // parts

    def number(self, name: str, default: float | None = None, *, above: float = 0.0) -> float:
        """Return a finite number."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < math.inf:
            raise self.wrong(name, f"must be a number above {above:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false; null counts as missing."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "must be a string")
        return value

    def table(self, name: str) -> "Settings":
        """Return an object within; a missing one is empty."""
        value = self._values.get(name) or {}
        if not isinstance(value, dict):
            raise self.wrong(name, "must be an object")
        return Settings(value, self.source)

    def strings(self, name: str) -> tuple[str, ...]:
        """Return a list of strings; a missing one is empty."""
        value = self._values.get(name) or []
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.wrong(name, "must be a list of strings")
        return tuple(value)

    def token_ids(self, name: str) -> tuple[int, ...]:
        """Return one vocabulary id or a list of them; a missing one is empty."""
        value = self._values.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0 for entry in ids):
            raise self.wrong(name, "must be a vocabulary id or a list of them")
        return tuple(ids)

    def refuse(self, name: str, reason: str) -> None:
        """Raise unless a setting is missing, null, false or empty."""
        if self._values.get(name):
            raise ModelFolderError(f"{self.source} sets {name}, {reason}")

    def wrong(self, name: str, rule: str) -> ModelFolderError:
        """Return the error of a setting that breaks a rule."""
        if self._values.get(name) is None:
            return ModelFolderError(f"{self.source} lacks {name}, which {rule}: take it from the model's source again")
        value = json.dumps(self._values[name])[:80]
        return ModelFolderError(f"{name} in {self.source} is {value}, but it {rule}: take it from the source again")

    def _get(self, name: str, default: object) -> Any:
        value = self._values.get(name)
        return default if value is None else value


def read_settings(path: Path) -> Settings:
    """Read a JSON object from a file.

    Raises:
        ModelFolderError: The file is missing or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(
            f"{path} is missing: name a folder with a Hugging Face model, or bring it with `liger models pull`"
        ) from error
    except OSError as error:
        raise ModelFolderError(f"cannot read {path}: {error.strerror}; check the folder's permissions") from error
    except ValueError as error:
        raise ModelFolderError(f"{path} is not JSON ({error}): the file is damaged, bring it again") from error
    if not isinstance(values, dict):
        raise ModelFolderError(f"{path} holds no JSON object: the file is damaged, bring it again")
    return Settings(values, path)


def read_optional_settings(path: Path) -> Settings:
    """Read a JSON object from a file that may be missing, which counts as empty."""
    return read_settings(path) if path.exists() else Settings({}, path)
