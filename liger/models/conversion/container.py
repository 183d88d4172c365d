"""Reads a GGUF file: metadata by key, tensors by name."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import gguf
import numpy as np
import numpy.typing as npt

from liger.errors import ModelFolderError


@dataclass(frozen=True)
class Tensor:
    """One tensor of a GGUF file, still quantised."""

    name: str
    shape: tuple[int, ...]  # as numpy and torch order it: the last axis is contiguous
    quantisation: str  # such as Q4_1, F16
    data: npt.NDArray[Any]

    def values(self) -> npt.NDArray[np.float32]:
        """Return its values in float32, shaped."""
        kind = gguf.GGMLQuantizationType[self.quantisation]
        return np.asarray(gguf.dequantize(self.data, kind), np.float32).reshape(self.shape)


@dataclass
class GgufFile:
    """A GGUF file; metadata is decoded when it is asked for."""

    path: Path
    reader: Any
    _read: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file.

        Raises:
            ModelFolderError: It is no GGUF file, or truncated.
        """
        try:
            return cls(path, gguf.GGUFReader(path))
        except (ValueError, KeyError, IndexError, TypeError, OverflowError, OSError) as error:
            raise ModelFolderError(f"{path} is not a whole GGUF file ({error}); bring it again") from error

    def get(self, key: str, default: Any = None) -> Any:
        """Return a metadata value, or `default` where there is none."""
        if key not in self._read:
            found = self.reader.fields.get(key)
            self._read[key] = None if found is None else found.contents()
        return default if self._read[key] is None else self._read[key]

    def need(self, key: str) -> Any:
        """Return a metadata value.

        Raises:
            ModelFolderError: There is none.
        """
        if (value := self.get(key)) is None:
            raise ModelFolderError(f"{self.path} has no {key}; it cannot be converted, give a Hugging Face folder")
        return value

    def number(self, key: str) -> float:
        """Return a float32 metadata value as the shortest decimal that means it (1e-05, not 9.99999975e-06)."""
        return float(str(np.float32(self.need(key))))

    def tensors(self) -> Iterator[Tensor]:
        """Give the tensors in the file's order."""
        for found in self.reader.tensors:
            shape = tuple(int(size) for size in reversed(found.shape))
            yield Tensor(str(found.name), shape, found.tensor_type.name, found.data)

    def tensor(self, name: str) -> Tensor | None:
        """Return the tensor of a name, None if the file has none."""
        return next((tensor for tensor in self.tensors() if tensor.name == name), None)

    def refuse(self, what: str) -> ModelFolderError:
        """Return the error that says what of this file cannot be converted."""
        return ModelFolderError(f"{self.path} {what}; give the model as a Hugging Face folder instead")
