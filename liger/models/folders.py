"""What a model folder must hold: a configuration and whole safetensors weights."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from liger.errors import ModelFolderError

_LARGEST_HEADER: Final = 100_000_000  # bytes, the format's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model that is on this machine, or a packaged one that can be brought."""

    name: str
    folder: Path | None  # None if it was not brought yet
    architecture: str
    size_bytes: int
    source: str


def check_folder(folder: Path) -> Mapping[str, Any]:
    """Check that a folder holds a configuration and whole weights, and return its config.json.

    Sizes are compared with the weights' own headers, so that a truncated file is found without reading it.

    Raises:
        ModelFolderError: A file is missing, damaged or truncated.
    """
    if not folder.is_dir():
        raise ModelFolderError(f"{folder} is not a folder")
    config = _read_json(folder / "config.json")
    for file in _weight_files(folder):
        _check_weights(file)
    return config


def architecture_of(config: Mapping[str, Any]) -> str:
    """Return the class that config.json names, else its model type, else empty."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else str(config.get("model_type", ""))


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        raise ModelFolderError(
            f"{folder} holds no model.safetensors and no model.safetensors.index.json; give a Hugging Face folder "
            "with safetensors weights"
        )
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFolderError(f"{index} has no weight_map; bring the model again")
    return [folder / name for name in sorted(set(map(str, weight_map.values())))]


def _check_weights(file: Path) -> None:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            header_size = struct.unpack("<Q", stream.read(8))[0]
            header: dict[str, Any] = json.loads(stream.read(min(header_size, _LARGEST_HEADER)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except FileNotFoundError as error:
        raise ModelFolderError(f"{file} is missing; bring the model again") from error
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFolderError(f"{file} is not a safetensors file, or damaged; bring the model again") from error
    if (wanted := 8 + header_size + max(ends, default=0)) != size:
        raise ModelFolderError(f"{file} is {size:,} bytes where its header says {wanted:,}; bring the model again")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(f"{file} is missing; give a Hugging Face folder") from error
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{file} cannot be read as JSON ({error}); bring the model again") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{file} holds no JSON object; bring the model again")
    return content
