"""Chat templates: a conversation laid out as the model was trained to read it.

Templates are Jinja as Hugging Face folders carry it (huggingface.co/docs/transformers/chat_templating): sandboxed,
with trimmed blocks, `raise_exception`, `strftime_now`, loop controls and a `tojson` that escapes no HTML.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.requests import Turn
from liger.errors import InvalidRequestError, ModelFolderError

MAX_TEMPLATE_MESSAGE: Final = 500  # characters of a template's own words that an error repeats


class ChatTemplate:
    """One model's template.

    Args:
        source: Jinja source.
        special_tokens: Such as bos_token and eos_token, by name, as the template sees them.

    Raises:
        ModelFolderError: The source is not Jinja.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ModelFolderError(f"the model's chat template is not Jinja: {error}") from error
        self._special_tokens = dict(special_tokens)

    def render(self, conversation: Sequence[Turn]) -> str:
        """Return the prompt's text, ending where the assistant's turn begins.

        Raises:
            InvalidRequestError: The template refuses the conversation, such as an unknown role.
        """
        messages = [{"role": turn.role, "content": turn.content} for turn in conversation]
        try:
            return self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self._special_tokens
            )
        except Exception as error:  # a template is a program: it may fail in any way
            reason = str(error)[:MAX_TEMPLATE_MESSAGE] or type(error).__name__
            raise InvalidRequestError(
                f"the model's chat template refuses this conversation: {reason}", field="chat.messages"
            ) from error


class _GenerationBlock(Extension):
    """Reads `{% generation %}…{% endgeneration %}`, which marks assistant text for training, as its contents."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's way to declare tags

    def parse(self, parser: Any) -> Any:
        """Return the block's statements."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)
