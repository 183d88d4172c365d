"""Converts GGUF files of the Llama architecture to Hugging Face folders.

Reading map: `container` (the file and its metadata), `config` (config.json, generation_config.json), `tokenizer`
(tokenizer.json, tokenizer_config.json), `weights` (model.safetensors). Source of the format: the GGUF specification
(ggml) and llama.cpp's converter, whose order of rows in query and key projections is undone here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from liger.models.conversion.config import generation_config, model_config
from liger.models.conversion.container import GgufFile
from liger.models.conversion.tokenizer import special_tokens, tokenizer, tokenizer_config
from liger.models.conversion.weights import write_weights
from liger.models.progress import Progress

__all__ = ["convert_gguf"]


def convert_gguf(file: Path, folder: Path, progress: Progress) -> None:
    """Write the Hugging Face folder of a GGUF file.

    Args:
        file: The GGUF file.
        folder: An existing folder to fill.
        progress: Told how far the conversion is.

    Raises:
        ModelFolderError: The file is damaged, or of an architecture, tokenizer or kind that is not converted.
    """
    progress("reading the GGUF file", 0.0)
    source = GgufFile.open(file)
    config = model_config(source)
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", generation_config(source))
    _write(folder / "tokenizer.json", tokenizer(source))
    _write(folder / "tokenizer_config.json", tokenizer_config(source))
    _write(folder / "special_tokens_map.json", special_tokens(source))
    write_weights(source, config, folder / "model.safetensors", progress)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
