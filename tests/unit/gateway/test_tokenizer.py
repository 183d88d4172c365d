"""The tokenizer gives the tokens that transformers gives from the same folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gateway.assets import read_assets
from gateway.tokenizer import INLINE_CHARACTERS, ModelTokenizer
from liger.models import resolve
from tests.unit.gateway import folders

TEXTS = ["", "The fox", "你好 😀", "<|im_start|>user", "a  b", "x" * 50]
WORDS = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=25).map(" ".join)


def save(folder: Path, tokenizer: Tokenizer, **settings: Any) -> Path:
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def ours(folder: Path) -> ModelTokenizer:
    assets = read_assets({path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".json"})
    assert assets.tokenizer is not None
    return assets.tokenizer


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"add_bos_token": True, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        {"add_bos_token": True, "add_eos_token": True, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        {"add_bos_token": False, "bos_token": {"content": "<|im_start|>", "__type": "AddedToken"}},
        {"add_bos_token": True},
    ],
)
async def test_tokens_around_a_text_are_those_of_transformers(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = save(tmp_path, folders.byte_level(), **settings)
    reference = AutoTokenizer.from_pretrained(folder)
    tokenizer = ours(folder)
    for adds in (True, False):
        encoded = await tokenizer.encode(TEXTS, add_special_tokens=adds)
        assert [item.token_ids for item in encoded] == reference(TEXTS, add_special_tokens=adds)["input_ids"]


def bert_reference() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(folders.word_level().to_str())
    tokenizer.no_padding()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")


REFERENCE = bert_reference()
WORD_LEVEL = ModelTokenizer(folders.word_level().to_str())


@given(text=WORDS, limit=st.integers(3, 30))
async def test_a_cut_text_is_that_of_transformers(text: str, limit: int) -> None:
    [encoded] = await WORD_LEVEL.encode_within([text], limit)
    assert encoded.token_ids == REFERENCE(text, truncation=True, max_length=limit)["input_ids"]


@given(first=WORDS, second=WORDS, limit=st.integers(5, 50))
async def test_a_cut_pair_is_that_of_transformers(first: str, second: str, limit: int) -> None:
    [encoded] = await WORD_LEVEL.encode_pairs([first], [second], limit)
    wanted = REFERENCE(first, second, truncation="longest_first", max_length=limit, return_token_type_ids=True)
    assert (encoded.token_ids, encoded.token_type_ids) == (wanted["input_ids"], wanted["token_type_ids"])


@given(first=WORDS, second=WORDS)
async def test_a_whole_pair_is_that_of_transformers(first: str, second: str) -> None:
    [encoded] = await WORD_LEVEL.encode_pairs([first], [second], None)
    wanted = REFERENCE(first, second, return_token_type_ids=True)
    assert (encoded.token_ids, encoded.token_type_ids) == (wanted["input_ids"], wanted["token_type_ids"])


async def test_a_long_text_leaves_the_event_loop_and_comes_back_the_same() -> None:
    text = "a b c " * INLINE_CHARACTERS
    [encoded] = await WORD_LEVEL.encode([text], add_special_tokens=False)
    assert encoded.token_ids == [4, 5, 6] * INLINE_CHARACTERS


def test_a_padded_vocabularys_ids_have_no_spelling_and_no_text() -> None:
    assert WORD_LEVEL.spelling(499) == ""
    assert WORD_LEVEL.is_silent(499)
    assert WORD_LEVEL.decode([4, 499, 5]) == "a b"


@pytest.mark.models
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "all-minilm-l6-v2"])
async def test_packaged_models_tokenise_as_in_transformers(name: str) -> None:

    folder = resolve(name)
    reference = AutoTokenizer.from_pretrained(folder)
    texts = [*TEXTS, "Name three primary colours. " * 20, "def f(x):\n\treturn x ** 2\n"]
    encoded = await ours(folder).encode(texts, add_special_tokens=True)
    assert [item.token_ids for item in encoded] == reference(texts, truncation=False)["input_ids"]
