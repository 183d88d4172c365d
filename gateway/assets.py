"""What the gateway needs of a model's folder: tokenizer, template, ends of a sequence. Fetched once, when needed."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.chat_template import ChatTemplate
from gateway.model import Model
from gateway.tokenizer import ModelTokenizer
from liger.errors import LigerError, ModelFolderError

_LOG: Final = logging.getLogger(__name__)

Files = Mapping[str, bytes]
SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """One model's tokenizer and settings."""

    tokenizer: ModelTokenizer | None  # None if the folder has no tokenizer.json
    template: ChatTemplate | None
    eos_token_ids: tuple[int, ...]  # that generation_config.json names, empty if none

    def need_tokenizer(self, model: str) -> ModelTokenizer:
        """Return the tokenizer.

        Raises:
            ModelFolderError: The model has none.
        """
        if self.tokenizer is None:
            raise ModelFolderError(f"model {model!r} has no tokenizer.json, so text cannot be read; send token ids")
        return self.tokenizer

    def need_template(self, model: str) -> ChatTemplate:
        """Return the chat template.

        Raises:
            ModelFolderError: The model has none.
        """
        if self.template is None:
            raise ModelFolderError(f"model {model!r} has no chat template, so it cannot chat; send text instead")
        return self.template


def read_assets(files: Files) -> Assets:
    """Return the assets that a folder's files hold.

    Raises:
        ModelFolderError: A file is damaged.
    """
    settings = _json(files, "tokenizer_config.json")
    content = files.get("tokenizer.json")
    source = _template_source(files, settings)
    return Assets(
        tokenizer=None if content is None else ModelTokenizer(_text("tokenizer.json", content)),
        template=None if source is None else ChatTemplate(source, _special_tokens(files, settings)),
        eos_token_ids=_eos(_json(files, "generation_config.json").get("eos_token_id")),
    )


class AssetStore:
    """Keeps the assets of the models in use.

    Args:
        fetch: Brings a model's files from the cluster.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[Files]]) -> None:
        self._fetch = fetch
        self._kept: dict[str, tuple[str, Assets]] = {}  # by name, with the fingerprint
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, model: Model) -> Assets:
        """Return a model's assets; fetches them once for all that wait.

        Raises:
            ModelFolderError: A file is damaged.
            UnavailableError: No rank can give them now.
        """
        async with self._locks.setdefault(model.name, asyncio.Lock()):
            fingerprint, assets = self._kept.get(model.name, ("", None))
            if assets is None or fingerprint != model.fingerprint:
                assets = await asyncio.to_thread(read_assets, await self._fetch(model.name))
                self._kept[model.name] = (model.fingerprint, assets)
                _LOG.info("tokenizer read", extra={"model": model.name, "fingerprint": model.fingerprint})
            return assets

    async def has_template(self, model: Model) -> bool:
        """Tell whether a model has a chat template; False while its files cannot be had."""
        try:
            return (await self.get(model)).template is not None
        except LigerError as error:
            _LOG.warning("a model's files cannot be had", extra={"model": model.name, "reason": error.message})
            return False


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"the model's {name} is not UTF-8: {error}") from error


def _json(files: Files, name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        value = json.loads(_text(name, files[name]))
    except json.JSONDecodeError as error:
        raise ModelFolderError(f"the model's {name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFolderError(f"the model's {name} is not a JSON object")
    return value


def _template_source(files: Files, settings: Mapping[str, Any]) -> str | None:
    if "chat_template.jinja" in files:
        return _text("chat_template.jinja", files["chat_template.jinja"])
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {str(item.get("name")): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _special_tokens(files: Files, settings: Mapping[str, Any]) -> dict[str, str]:
    merged = {**_json(files, "special_tokens_map.json"), **settings}
    return {name: text for name in SPECIAL_TOKENS if (text := _token_text(merged.get(name)))}


def _eos(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(number for number in values if isinstance(number, int))


def _token_text(value: object) -> str:
    """Return a special token's text, which folders write as text or as an object with `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""
