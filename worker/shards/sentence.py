"""Reads how a sentence-transformers folder makes one vector of an input: modules.json and the pooling's config.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from liger.domain import Pooling
from liger.errors import ModelFolderError
from worker.shards.settings import Settings, read_settings

_POOLINGS: Final = {
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_lasttoken": Pooling.LAST,
}
_NAMED_POOLINGS: Final = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST}


@dataclass(frozen=True, slots=True)
class SentenceSettings:
    """How hidden states become an embedding unless a client asks otherwise."""

    pooling: Pooling
    normalize: bool


def read_sentence_settings(folder: Path, default: Pooling) -> SentenceSettings:
    """Read a folder's own pooling and normalisation; `default` and none where it has no modules.json.

    Raises:
        ModelFolderError: It pools, or goes on after pooling, in a way that is not served.
    """
    path = folder / "modules.json"
    if not path.exists():
        return SentenceSettings(default, normalize=False)
    pooling, normalize = default, False
    for kind, place in _read_modules(path):
        if kind == "Pooling":
            pooling = _read_pooling(read_settings(folder / place / "config.json"))
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise ModelFolderError(
                f"{path} has a module {kind}, which is not served: only Transformer, Pooling and Normalize are"
            )
    return SentenceSettings(pooling, normalize)


def _read_modules(path: Path) -> list[tuple[str, str]]:
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        return [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in modules]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(
            f"{path} is no list of modules ({error!r}): the file is damaged, bring it again"
        ) from error


def _read_pooling(settings: Settings) -> Pooling:
    names = [name for name in settings.names() if name.startswith("pooling_mode_") and settings.raw(name) is True]
    found = [_POOLINGS.get(name) for name in names]
    if "pooling_mode" in settings:
        found = [_NAMED_POOLINGS.get(settings.text("pooling_mode"))]
    if len(found) == 1 and found[0] is not None:
        return found[0]
    raise ModelFolderError(
        f"{settings.source} pools by {', '.join(names) or settings.raw('pooling_mode')}, which is not served: "
        "exactly one of mean, cls and lasttoken is"
    )
