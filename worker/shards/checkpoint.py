"""Finds the tensors of a model folder: the headers of its safetensors files, checked, without reading weights."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from liger.errors import ModelFolderError
from worker.shards.settings import read_settings

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
_MAX_HEADER_BYTES: Final = 100_000_000  # the format's own limit
_DTYPE_BYTES: Final = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies."""

    path: Path
    name: str  # in that file
    dtype: str  # as safetensors writes it, such as F32
    shape: tuple[int, ...]
    start: int  # bytes from the end of the file's header
    stop: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All tensors of a folder, by name; old names of norms (gamma, beta) are given as weight and bias."""

    folder: Path
    tensors: Mapping[str, StoredTensor]


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of a folder's weight files.

    Raises:
        ModelFolderError: There are none, or a file is missing, truncated or damaged.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _files(folder):
        for tensor in read_header(path):
            tensors[_present_name(tensor.name)] = tensor
    return Checkpoint(folder, tensors)


def read_header(path: Path) -> list[StoredTensor]:
    """Read where the tensors of one safetensors file lie, and check that the file is whole.

    Raises:
        ModelFolderError: It is not, or it is missing.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            header: Any = json.loads(file.read(length)) if length <= min(size, _MAX_HEADER_BYTES) else None
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        tensors = [_entry(path, name, entry) for name, entry in entries.items()]
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path} is missing: the folder is incomplete, bring the model again") from error
    except OSError as error:
        raise ModelFolderError(f"cannot read {path}: {error.strerror}; check the folder's permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFolderError(f"{path} is no whole safetensors file: bring the model again") from error
    wanted = 8 + length + max((tensor.stop for tensor in tensors), default=0)
    if size < wanted:
        raise ModelFolderError(f"{path} is truncated: it has {size} of {wanted} bytes; bring the model again")
    return tensors


def _entry(path: Path, name: str, entry: Mapping[str, Any]) -> StoredTensor:
    start, stop = entry["data_offsets"]
    shape = tuple(int(size) for size in entry["shape"])
    num_bytes = _DTYPE_BYTES.get(entry["dtype"], 0)
    for size in shape:
        num_bytes *= size
    if not 0 <= start <= stop or (num_bytes and stop - start != num_bytes):
        raise ValueError(f"tensor {name} has {stop - start} bytes, not {num_bytes}")
    return StoredTensor(path=path, name=name, dtype=entry["dtype"], shape=shape, start=start, stop=stop)


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    index = folder / INDEX_FILE
    if index.exists():
        names = read_settings(index).raw("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ModelFolderError(f"{index} has no weight_map: the file is damaged, bring it again")
        if any(Path(name).name != name for name in names.values()):
            raise ModelFolderError(f"{index} names a file outside the folder: bring the model from a source you trust")
        return [folder / name for name in sorted(set(names.values()))]
    others = sorted(path.name for pattern in ("*.bin", "*.gguf", "*.pt", "*.h5") for path in folder.glob(pattern))
    found = f" (it has {', '.join(others[:3])})" if others else ""
    raise ModelFolderError(
        f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}{found}: bring the model with `liger models pull`, "
        "or convert its weights to safetensors"
    )


def _present_name(name: str) -> str:
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
