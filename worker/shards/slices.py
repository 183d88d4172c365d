"""Slices of a checkpoint's tensors: checked against what the model needs, then read, never more than asked."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from liger.errors import ModelFolderError
from worker.shards.checkpoint import Checkpoint, StoredTensor
from worker.shards.uploads import Uploads

_DTYPES: Final = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Index = tuple[slice, ...]  # one contiguous part of each dimension


class Slices(Protocol):
    """Gives parts of tensors by name."""

    def take(self, name: str, shape: tuple[int, ...], index: Index) -> Tensor:
        """Return part `index` of a tensor whose whole shape must be `shape`."""
        ...


class HeldSlices(Slices, Protocol):
    """Gives parts that have memory, and counts it."""

    held_bytes: int


class CheckedSlices:
    """Checks what is taken and counts its bytes; what it gives has no memory (torch's meta device)."""

    def __init__(self, checkpoint: Checkpoint, prefixes: tuple[str, ...], marker: str) -> None:
        self._checkpoint = checkpoint
        held = [prefix for prefix in prefixes if f"{prefix}{marker}" in checkpoint.tensors]
        if not held:
            raise _missing(checkpoint, marker, prefixes[0])
        self._prefixes = (held[0], "")
        self.num_bytes = 0

    def find(self, name: str) -> StoredTensor:
        """Return where a tensor lies.

        Raises:
            ModelFolderError: It is not there.
        """
        for prefix in self._prefixes:
            if stored := self._checkpoint.tensors.get(prefix + name):
                return stored
        raise _missing(self._checkpoint, name, self._prefixes[0])

    def take(self, name: str, shape: tuple[int, ...], index: Index) -> Tensor:
        """Check that a tensor is there, of the right shape and of a float type."""
        stored = self.find(name)
        if stored.shape != shape:
            raise ModelFolderError(
                f"{stored.name} in {stored.path} has the shape {list(stored.shape)}, but config.json asks for "
                f"{list(shape)}: config and weights are of different models, bring both from one source"
            )
        if stored.dtype not in _DTYPES:
            raise ModelFolderError(
                f"{stored.name} in {stored.path} is of type {stored.dtype}, which is not served: bring the model's "
                f"float weights ({', '.join(_DTYPES)})"
            )
        part = torch.empty(shape, dtype=_DTYPES[stored.dtype], device="meta")[index]
        self.num_bytes += part.nbytes
        return part


class ReadSlices:
    """Reads what was checked before.

    Args:
        checked: Knows where tensors lie, and how many bytes will be taken.
        dtype: Type that parts are given in.
        device: Where parts are put.
        progress: Is told the share of the bytes read, 0 to 1.
    """

    def __init__(
        self,
        checked: CheckedSlices,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        progress: Callable[[float], None] | None,
    ) -> None:
        self._checked = checked
        self._dtype, self._device = dtype, torch.device(device)
        self._uploads = Uploads(self._device) if self._device.type == "cuda" else None
        self._progress = progress
        self._files: dict[Path, Any] = {}
        self._stack = ExitStack()
        self._read_bytes = 0
        self.held_bytes = 0

    def __enter__(self) -> "ReadSlices":
        return self

    def __exit__(self, *_: object) -> None:
        if self._uploads is not None:
            self._uploads.finish()
        self._stack.close()

    def take(self, name: str, shape: tuple[int, ...], index: Index) -> Tensor:  # noqa: ARG002 - was checked
        """Read a part into memory of its own; on a device it may be used in stream order before it is there.

        Raises:
            ModelFolderError: The file cannot be read any more.
        """
        stored = self._checked.find(name)
        try:
            part: Tensor = self._open(stored.path).get_slice(stored.name)[index]
        except (SafetensorError, OSError) as error:
            raise ModelFolderError(f"cannot read {stored.path} ({error}): bring the model again") from error
        self._read_bytes += part.nbytes
        if self._progress:
            self._progress(self._read_bytes / self._checked.num_bytes)
        held = self._put(part)
        self.held_bytes += held.nbytes
        return held

    def _put(self, part: Tensor) -> Tensor:
        if self._uploads is not None:
            return self._uploads.put(part, self._dtype)
        return part.to(self._device, self._dtype, copy=True, memory_format=torch.contiguous_format)

    def _open(self, path: Path) -> Any:
        if path not in self._files:
            self._files[path] = self._stack.enter_context(safe_open(path, framework="pt"))
        return self._files[path]


def _missing(checkpoint: Checkpoint, name: str, prefix: str) -> ModelFolderError:
    return ModelFolderError(
        f"{checkpoint.folder} has no tensor {name}{f' (or {prefix}{name})' if prefix else ''}, which config.json asks "
        "for: the weights are incomplete or of another model, bring the folder again"
    )
