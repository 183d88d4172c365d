"""Reads the files that commands are given, writes those that they make."""

from pathlib import Path

from liger.errors import ConfigError


def read(path: Path) -> str:
    """Return a text file's content.

    Raises:
        ConfigError: It cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}") from error


def write(path: Path, content: str) -> None:
    """Write a text file.

    Raises:
        ConfigError: It cannot be written there.
    """
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
