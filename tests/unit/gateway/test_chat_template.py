"""Chat templates lay conversations out as transformers does, and their errors are the client's to mend."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from gateway.chat_template import ChatTemplate
from gateway.requests import Turn
from liger.errors import InvalidRequestError, ModelFolderError
from tests.unit.gateway import folders

TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content'] %}\n"
    "    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set system = false %}\n"
    "    {%- set loop_messages = messages %}\n{%- endif %}\n"
    "{%- for message in loop_messages %}\n"
    "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
    "        {{- raise_exception('Conversation roles must alternate') }}\n    {%- endif %}\n"
    "    {%- if message['role'] == 'user' %}\n"
    "        {{- bos_token + '[INST] ' + (system + ' ' if system and loop.first else '') }}"
    "{{- message['content'] | trim + ' [/INST]' }}\n"
    "    {%- else %}\n        {{- ' ' + message['content'] | trim + ' ' + eos_token }}\n    {%- endif %}\n{%- endfor %}"
)
FEATURES = (
    "{%- set ns = namespace(count=0) -%}\n"
    "{% for message in messages %}\n"
    "    {% if message.role == 'tool' %}{% continue %}{% endif %}\n"
    "    {% set ns.count = ns.count + 1 %}\n"
    "  {{ message | tojson }} {{ [1, 'é<'] | tojson(indent=2) }}\n"
    "{% generation %}{{ message.content }}{% endgeneration %}\n"
    "{% if loop.index > 3 %}{% break %}{% endif %}\n"
    "{% endfor %}\n"
    "{{ ns.count }} {{ tools is none }} {{ documents is none }} {{ strftime_now('%%') }} {{ unknown_token is defined }}"
)
CONVERSATIONS = [
    [("user", "Hi")],
    [("system", "Be <kind> & brief."), ("user", "  Hi  ")],
    [("user", "1 + 1?"), ("assistant", "2"), ("user", "é 你好 😀 {{ 7 * 7 }} <|im_end|>")],
    [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "")],
]


def turns(conversation: list[tuple[str, str]]) -> list[Turn]:
    return [Turn(role=role, content=content) for role, content in conversation]


def expected(source: str, conversation: list[tuple[str, str]]) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=folders.byte_level(), **TOKENS)
    messages = [{"role": role, "content": content} for role, content in conversation]
    return tokenizer.apply_chat_template(messages, chat_template=source, add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize("source", [SMOLLM2, LLAMA2, FEATURES, folders.CHAT_TEMPLATE])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_the_layout_is_that_of_transformers(source: str, conversation: list[tuple[str, str]]) -> None:
    assert ChatTemplate(source, TOKENS).render(turns(conversation)) == expected(source, conversation)


def test_what_the_template_refuses_is_told_in_its_words() -> None:
    with pytest.raises(InvalidRequestError, match="Conversation roles must alternate") as caught:
        ChatTemplate(LLAMA2, TOKENS).render(turns([("assistant", "x")]))
    assert caught.value.field == "chat.messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{% for i in range(1000000) %}{% endfor %}",
    ],
)
def test_a_template_that_fails_or_breaks_out_is_an_error_of_the_request(source: str) -> None:
    with pytest.raises(InvalidRequestError, match="chat template refuses"):
        ChatTemplate(source, TOKENS).render(turns([("user", "x")]))


def test_a_template_that_is_no_jinja_is_an_error_of_the_folder() -> None:
    with pytest.raises(ModelFolderError, match="not Jinja"):
        ChatTemplate("{% for %}", TOKENS)
