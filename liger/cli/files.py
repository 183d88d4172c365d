"""Writes the files that commands make."""

from pathlib import Path

from liger.errors import ConfigError


def write(path: Path, content: str) -> None:
    """Write a text file.

    Raises:
        ConfigError: It cannot be written there.
    """
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
