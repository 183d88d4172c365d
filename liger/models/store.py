"""Keeps brought models under LIGER_HOME: a folder is there whole or not at all."""

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from liger.errors import LigerError, ModelFolderError
from liger.models.folders import check_folder
from liger.models.progress import Progress

ORIGIN_FILE: Final = "liger.json"


def liger_home() -> Path:
    """Return where Liger+ keeps its files: LIGER_HOME, else ~/.cache/liger."""
    named = os.environ.get("LIGER_HOME")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "liger"


def models_root() -> Path:
    """Return the folder whose folders are the models that were brought."""
    return liger_home() / "models"


def origin_of(folder: Path) -> Mapping[str, Any]:
    """Return what `keep` noted about a folder; empty if it did not make it."""
    try:
        noted = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def is_kept(folder: Path, origin: Mapping[str, Any]) -> bool:
    """Tell whether a folder is whole and was made from this origin."""
    if origin_of(folder) != origin:
        return False
    try:
        check_folder(folder)
    except ModelFolderError:
        return False
    return True


def keep(
    folder: Path,
    origin: Mapping[str, Any],
    build: Callable[[Path], None],
    *,
    needed_bytes: int = 0,
    progress: Progress,
) -> Path:
    """Return `folder`, made by `build` in a temporary folder beside it and renamed once it is whole.

    One process builds a folder at a time; the others wait and then find it. What an interrupted build left is removed.

    Args:
        folder: Where the model is to be.
        origin: What it is made from; a folder made from something else is made again.
        build: Fills the empty folder it is given.
        needed_bytes: Free disk that the build takes, checked before.
        progress: Told of waiting.

    Raises:
        ModelFolderError: The disk is full or may not be written, or what was built is no model folder.
    """
    if is_kept(folder, origin):
        return folder
    with _writing(folder), _lock(folder, progress):
        if is_kept(folder, origin):
            return folder
        for leavings in folder.parent.glob(f".{folder.name}.part-*"):
            shutil.rmtree(leavings, ignore_errors=True)
        _check_space(folder.parent, needed_bytes)
        _build_and_rename(folder, origin, build)
    return folder


def _build_and_rename(folder: Path, origin: Mapping[str, Any], build: Callable[[Path], None]) -> None:
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part-", dir=folder.parent))
    try:
        build(part)
        check_folder(part)
        (part / ORIGIN_FILE).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        part.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _lock(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the folder's lock; the kernel lets it go when the process ends, however it ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that brings it", 0.0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn the system's errors while writing into ones that say what mends them."""
    try:
        yield
    except OSError as error:
        if isinstance(error, LigerError):
            raise
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _no_space(folder.parent) from error
        raise ModelFolderError(
            f"cannot write {error.filename or folder}: {error.strerror}; set LIGER_HOME to a folder you may write"
        ) from error


def _check_space(place: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise _no_space(place, f" ({free / 1e6:,.0f} MB are free, {needed_bytes / 1e6:,.0f} MB are needed)")


def _no_space(place: Path, figures: str = "") -> ModelFolderError:
    return ModelFolderError(f"the disk of {place} is full{figures}; free some, or set LIGER_HOME to another disk")
