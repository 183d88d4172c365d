"""Reads a model folder's settings: config.json, generation_config.json and sentence-transformers' own."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Final

from liger.domain import Pooling, Task
from liger.errors import ModelFolderError
from worker.assets import ASSET_NAMES
from worker.shards.checkpoint import open_checkpoint
from worker.shards.families.registry import ARCHITECTURES, Architecture
from worker.shards.sentence import read_sentence_settings
from worker.shards.settings import Settings, read_optional_settings, read_settings
from worker.shards.spec import HeadKind, ModelSpec

_NUM_SAMPLES: Final = 16
_SAMPLE_BYTES: Final = 4096
_EXPERT_SETTINGS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def read_spec(folder: Path) -> ModelSpec:
    """Read what a model is and can do.

    Raises:
        ModelFolderError: A file is missing or damaged, or the model is of a kind that is not served.
    """
    settings = read_settings(folder / "config.json")
    _refuse_unserved_weights(settings)
    name, architecture = _find_architecture(settings)
    spec = architecture.family.read(settings)
    pooling = Pooling.LAST if spec.causal else Pooling.MEAN
    sentence = read_sentence_settings(folder, pooling)
    generation = read_optional_settings(folder / "generation_config.json")
    eos_token_ids = generation.token_ids("eos_token_id") or settings.token_ids("eos_token_id")
    labels = _read_labels(settings) if architecture.head is HeadKind.CLASSIFIER else ()
    return replace(
        spec,
        architecture=name,
        head=architecture.head,
        classifier_pooling=pooling if spec.causal else Pooling.CLS,
        labels=labels,
        multi_label=settings.raw("problem_type") == "multi_label_classification",
        eos_token_ids=eos_token_ids,
        default_pooling=sentence.pooling,
        default_normalize=sentence.normalize,
        tasks=_tasks(architecture.head, labels),
    )


def fingerprint(folder: Path) -> str:
    """Return the sha256, in hexadecimal, that tells a model's builds apart.

    It covers config.json, the files that gateways need, the tensors' names, dtypes, shapes and places, and samples of
    their bytes (64 KiB a file at most), so that two trainings of one architecture differ too.

    Raises:
        ModelFolderError: A file is missing or damaged.
    """
    path = folder / "config.json"
    read_settings(path)
    digest = hashlib.sha256(path.read_bytes())
    for asset in ASSET_NAMES:
        digest.update(_content(folder / asset))
    tensors = open_checkpoint(folder).tensors
    for name, tensor in sorted(tensors.items()):
        digest.update(
            f"\n{name} {tensor.dtype} {tensor.shape} {tensor.path.name} {tensor.start} {tensor.stop}".encode()
        )
    for path in sorted({tensor.path for tensor in tensors.values()}):
        digest.update(_sample(path))
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _sample(path: Path) -> bytes:
    """Return some bytes from evenly spaced places of a file."""
    last = max(path.stat().st_size - _SAMPLE_BYTES, 0)
    parts = []
    with path.open("rb") as file:
        for number in range(_NUM_SAMPLES):
            file.seek(number * last // (_NUM_SAMPLES - 1))
            parts.append(file.read(_SAMPLE_BYTES))
    return b"".join(parts)


def _find_architecture(settings: Settings) -> tuple[str, Architecture]:
    names = settings.strings("architectures")
    if not names:
        raise settings.wrong("architectures", "must name the model's class")
    if names[0] not in ARCHITECTURES:
        raise ModelFolderError(
            f"{settings.source} names the architecture {names[0]}, which is not served; those served: "
            f"{', '.join(ARCHITECTURES)}"
        )
    return names[0], ARCHITECTURES[names[0]]


def _refuse_unserved_weights(settings: Settings) -> None:
    for name in _EXPERT_SETTINGS:
        if isinstance(count := settings.raw(name), int) and count > 1:
            raise ModelFolderError(
                f"{settings.source} describes a mixture of experts ({name} is {count}), which is not served: "
                "choose a dense model"
            )
    for name in ("quantization_config", "compression_config"):
        settings.refuse(name, "so its weights are quantised, which is not served: bring the model's float weights")


def _read_labels(settings: Settings) -> tuple[str, ...]:
    table = settings.raw("id2label")
    if table is None:
        count = settings.integer("num_labels", 2)
        return tuple(f"LABEL_{index}" for index in range(count))
    try:
        return tuple(str(table[str(index)]) for index in range(len(table)))
    except (KeyError, TypeError) as error:
        raise settings.wrong("id2label", "must name a label for 0, 1, 2 … without gaps") from error


def _tasks(head: HeadKind, labels: tuple[str, ...]) -> tuple[Task, ...]:
    if head is HeadKind.LANGUAGE:
        return (Task.GENERATE, Task.SCORE, Task.EMBED)
    if head is HeadKind.CLASSIFIER:
        return (Task.EMBED, Task.CLASSIFY, Task.RERANK) if len(labels) == 1 else (Task.EMBED, Task.CLASSIFY)
    return (Task.EMBED,)
