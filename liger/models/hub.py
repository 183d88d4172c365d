"""Brings models from the Hugging Face Hub into its own cache, so that other programs share them."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from liger.errors import ConfigError, ModelFolderError, ModelNotFoundError
from liger.models.folders import LocalModel, architecture_of, check_folder
from liger.models.progress import Progress

# What ranks and gateways read; other formats of the same weights stay where they are.
PATTERNS: Final = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "*_Pooling/config.json",
)


def bring(reference: str, progress: Progress) -> Path:
    """Return the folder of a model of the Hub, downloading what is missing of it.

    Args:
        reference: `owner/name`, or `owner/name@revision`.
        progress: Told how far the download is.

    Raises:
        ConfigError: huggingface_hub is not installed.
        ModelNotFoundError: The Hub knows no such model or revision, or does not show it to this user.
        ModelFolderError: The Hub cannot be reached, the disk is full, or the model has no safetensors weights.
    """
    name, _, revision = reference.partition("@")
    folder = _download(name, revision or None, progress)
    try:
        check_folder(folder)
    except ModelFolderError as error:
        raise ModelFolderError(
            f"{reference} cannot be served ({error.message}): models need config.json and safetensors weights"
        ) from error
    if not (folder / "tokenizer.json").is_file():
        raise ModelFolderError(f"{reference} has no tokenizer.json: save it once with transformers' fast tokenizer")
    return folder


def cached() -> Iterator[LocalModel]:
    """Give the models with safetensors weights that the Hub's cache holds."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return
    import huggingface_hub  # noqa: PLC0415 - belongs to the extra `models`

    try:
        repositories = huggingface_hub.scan_cache_dir().repos
    except huggingface_hub.errors.CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda found: str(found.repo_id)):
        for revision in repository.revisions if repository.repo_type == "model" else ():
            try:
                config = check_folder(Path(revision.snapshot_path))
            except ModelFolderError:
                continue
            yield LocalModel(
                name=repository.repo_id,
                folder=Path(revision.snapshot_path),
                architecture=architecture_of(config),
                size_bytes=revision.size_on_disk,
                source="Hugging Face Hub",
            )
            break


def _download(name: str, revision: str | None, progress: Progress) -> Path:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ConfigError("huggingface_hub is needed to bring models of the Hub: pip install 'liger-plus[models]'")
    import huggingface_hub  # noqa: PLC0415 - belongs to the extra `models`
    from huggingface_hub import errors  # noqa: PLC0415

    progress(f"downloading {name}", 0.0)
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(PATTERNS), tqdm_class=_reporting_bar(name, progress)
        )
    except errors.GatedRepoError as error:
        raise ModelNotFoundError(f"{name} is gated: accept its terms on the Hub and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"the Hub has no model {name}, or shows it only to its owners: check the name, or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{name} has no revision {revision}") from error
    except errors.HFValidationError as error:
        raise ModelNotFoundError(f"{name} is not a Hub id: {error}") from error
    except Exception as error:  # HTTP, connection, time-out, disk: the library has no common base for them
        raise ModelFolderError(
            f"cannot bring {name} from {_endpoint()} ({_reason(error)}); check the network, HF_ENDPOINT and the free "
            "disk, or give a local folder"
        ) from error
    return Path(folder)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "the Hugging Face Hub")


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


def _reporting_bar(name: str, progress: Progress) -> Any:
    """Return a progress bar class that tells `progress` instead of drawing."""
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415 - belongs to the extra `models`

    class ReportingBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts_bytes = kwargs.get("unit") == "B"
            self._num_done = 0.0
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]  # tqdm has no types

        def update(self, n: float | None = 1) -> None:
            self._num_done += n or 0
            if self._counts_bytes and self.total:
                progress(f"downloading {name}", min(self._num_done / self.total, 1.0))

    return ReportingBar
