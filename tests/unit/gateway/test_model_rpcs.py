"""Tokenize, GetModel, ListModels: what a model is, and its words."""

import asyncio

import pytest

from liger.client import Message
from liger.domain import Task
from liger.errors import ModelFolderError, ModelNotFoundError, UnavailableError
from tests.unit.gateway import folders
from tests.unit.gateway.conftest import Gateway


async def test_tokenize_gives_ids_and_the_vocabularys_spelling(gateway: Gateway) -> None:
    reply = await gateway.client.tokenize("embedder", "a b")
    assert reply.token_ids == (2, 4, 5, 3)
    assert reply.tokens == ("[CLS]", "a", "b", "[SEP]")


async def test_tokenize_leaves_special_tokens_out_where_asked(gateway: Gateway) -> None:
    reply = await gateway.client.tokenize("embedder", "a b", add_special_tokens=False)
    assert reply.tokens == ("a", "b")


async def test_tokenize_of_nothing_gives_what_the_model_adds(gateway: Gateway) -> None:
    assert (await gateway.client.tokenize("embedder", "")).tokens == ("[CLS]", "[SEP]")
    assert (await gateway.client.tokenize("chat", "")).tokens == ()


async def test_tokenize_lays_a_conversation_out(gateway: Gateway) -> None:
    reply = await gateway.client.tokenize("chat", [Message("user", "Hi")])
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert list(reply.token_ids) == folders.byte_level().encode(text).ids
    assert reply.tokens[0] == "<|im_start|>"


async def test_get_model_describes_a_model(gateway: Gateway) -> None:
    model = await gateway.client.get_model("sentiment")
    assert (model.name, model.architecture, model.tasks) == ("sentiment", "TestModel", (Task.CLASSIFY,))
    assert (model.max_length, model.vocabulary_size, model.labels) == (16, 500, ("bad", "so-so", "good"))
    assert (model.num_groups, model.has_chat_template, model.dtype) == (1, False, "float32")
    assert (await gateway.client.get_model("chat")).has_chat_template


async def test_get_model_describes_one_that_is_forming(gateway: Gateway) -> None:
    assert (await gateway.client.get_model("forming")).num_groups == 0


async def test_list_models_gives_all_by_name(gateway: Gateway) -> None:
    names = [model.name for model in await gateway.client.list_models()]
    assert names == sorted(gateway.controller.models)


async def test_list_models_goes_on_when_a_models_files_cannot_be_had(gateway: Gateway) -> None:
    gateway.controller.asset_error = UnavailableError("no rank answers")
    models = await gateway.client.list_models()
    assert len(models) == len(gateway.controller.models)
    assert not any(model.has_chat_template for model in models)


async def test_an_unknown_model_is_refused_with_a_near_name_and_the_known_ones(gateway: Gateway) -> None:
    with pytest.raises(
        ModelNotFoundError, match="no model 'embeder' here; did you mean 'embedder'\\? models here: bare"
    ):
        await gateway.client.get_model("embeder")
    with pytest.raises(ModelNotFoundError, match="no model 'gpt-9' here; models here: bare, chat"):
        await gateway.client.tokenize("gpt-9", "a")


async def test_files_are_fetched_once_for_many_calls_at_the_same_time(gateway: Gateway) -> None:
    await asyncio.gather(*(gateway.client.tokenize("chat", "fox") for _ in range(8)))
    assert gateway.controller.num_asset_calls == 1


async def test_files_are_fetched_again_when_the_model_changes(gateway: Gateway) -> None:
    await gateway.client.tokenize("embedder", "a")
    model = gateway.controller.models["embedder"]
    model.info.fingerprint = "another"
    model.files = folders.files(folders.byte_level())
    await gateway.tell_catalogue()
    reply = await gateway.client.tokenize("embedder", "fox")
    assert list(reply.token_ids) == folders.byte_level().encode("fox").ids


async def test_files_that_cannot_be_had_now_are_asked_for_again(gateway: Gateway) -> None:
    gateway.controller.asset_error = UnavailableError("rank 0 is away", retry_after_s=1.0)
    with pytest.raises(UnavailableError, match="rank 0 is away"):
        await gateway.client.tokenize("chat", "fox")
    gateway.controller.asset_error = None
    assert (await gateway.client.tokenize("chat", "fox")).token_ids


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "tokenizer.json cannot be read"),
        ("tokenizer.json", b"\xff\xfe", "tokenizer.json is not UTF-8"),
        ("tokenizer_config.json", b"[1]", "not a JSON object"),
        ("tokenizer_config.json", b"{", "not JSON"),
        ("generation_config.json", b"nope", "not JSON"),
        ("chat_template.jinja", b"{% if %}", "chat template is not Jinja"),
    ],
)
async def test_a_damaged_file_is_named(gateway: Gateway, name: str, content: bytes, message: str) -> None:
    files = dict(folders.files(folders.byte_level()))
    gateway.controller.models["chat"].files = files | {name: content}
    with pytest.raises(ModelFolderError, match=message):
        await gateway.client.tokenize("chat", "fox")


async def test_chat_without_a_template_is_refused_with_the_way_out(gateway: Gateway) -> None:
    with pytest.raises(ModelFolderError, match=r"no chat template.*send text"):
        await gateway.client.tokenize("embedder", [Message("user", "Hi")])
    with pytest.raises(ModelFolderError, match="no chat template"):
        await gateway.client.generate("sentencepiece", [Message("user", "Hi")]).text()
