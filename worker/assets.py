"""The files of a model's folder that gateways need; small, and equal on all ranks."""

from typing import Final

ASSET_NAMES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
