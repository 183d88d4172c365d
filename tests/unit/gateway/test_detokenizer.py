"""Detokenising: whole characters only, and in sum the text of all tokens."""

import codecs
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream

from gateway.detokenizer import Detokenizer
from gateway.tokenizer import ModelTokenizer
from tests.unit.gateway import folders

BYTE_LEVEL_SIZE = folders.byte_level().get_vocab_size()
UNNAMED = BYTE_LEVEL_SIZE + 7  # ids of a padded vocabulary
FIRST_BYTE = folders.byte_fallback().token_to_id("<0x00>")
PIECES = [folders.byte_fallback().token_to_id(piece) for piece in ("▁", "▁a", "a", "b", "▁你", "好", ".", "</s>")]


@cache
def byte_level() -> ModelTokenizer:
    return ModelTokenizer(folders.byte_level().to_str())


@cache
def byte_fallback() -> ModelTokenizer:
    return ModelTokenizer(folders.byte_fallback().to_str())


def stream(tokenizer: ModelTokenizer, chunks: list[list[int]]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(chunk) for chunk in chunks), detokenizer.flush()]


def chunked(ids: list[int], cuts: list[int]) -> list[list[int]]:
    places = sorted({cut % (len(ids) + 1) for cut in cuts})
    return [ids[start:end] for start, end in zip([0, *places], [*places, len(ids)], strict=True)]


@given(text=st.text(max_size=60), cuts=st.lists(st.integers(0, 200)))
def test_any_text_comes_back_without_half_characters(text: str, cuts: list[int]) -> None:
    ids = folders.byte_level().encode(text).ids
    pieces = stream(byte_level(), chunked(ids, cuts))
    assert "".join(pieces) == byte_level().decode(ids) == text
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")


@given(text=st.text(alphabet=st.sampled_from("你好世界😀👩‍👧🇫🇷éñ x\ufffd"), max_size=40))
def test_each_piece_of_a_multibyte_text_is_a_prefix_of_what_follows(text: str) -> None:
    ids = folders.byte_level().encode(text).ids
    detokenizer = Detokenizer(byte_level())
    given_out = ""
    for token in ids:
        given_out += detokenizer.push([token])
        assert text.startswith(given_out)
    assert given_out + detokenizer.flush() == text


@given(
    ids=st.lists(st.integers(0, BYTE_LEVEL_SIZE - 1) | st.just(UNNAMED), max_size=80),
    cuts=st.lists(st.integers(0, 200)),
)
def test_random_tokens_give_the_text_of_decoding_them_at_once(ids: list[int], cuts: list[int]) -> None:
    assert "".join(stream(byte_level(), chunked(ids, cuts))) == byte_level().decode(ids)


@given(text=st.text(alphabet=st.sampled_from("ab 你好😀é.ñ"), max_size=40), cuts=st.lists(st.integers(0, 200)))
def test_byte_fallback_text_comes_back(text: str, cuts: list[int]) -> None:
    ids = folders.byte_fallback().encode(text).ids
    pieces = stream(byte_fallback(), chunked(ids, cuts))
    assert "".join(pieces) == byte_fallback().decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.sampled_from(PIECES) | st.sampled_from("é你😀 A\n"), max_size=30))
def test_byte_fallback_tokens_of_whole_characters_give_the_text_of_decoding_at_once(parts: list[int | str]) -> None:
    ids: list[int] = []
    for part in parts:
        ids += [part] if isinstance(part, int) else [FIRST_BYTE + byte for byte in part.encode()]
    assert "".join(stream(byte_fallback(), [[token] for token in ids])) == byte_fallback().decode(ids)


@given(st.lists(st.integers(128, 255), min_size=1, max_size=12))
def test_ill_formed_byte_runs_are_read_as_a_utf8_stream(run: list[int]) -> None:
    before, after = folders.byte_fallback().token_to_id("b"), folders.byte_fallback().token_to_id("▁a")
    pieces = stream(byte_fallback(), [[before], *([FIRST_BYTE + byte] for byte in run), [after]])
    assert "".join(pieces) == "b" + codecs.decode(bytes(run), "utf-8", "replace") + " a"


def test_a_byte_fallback_character_does_not_wait_for_the_next_token() -> None:
    detokenizer = Detokenizer(byte_fallback())
    pieces = [detokenizer.push([FIRST_BYTE + byte]) for byte in "😀".encode()]
    assert pieces == ["", "", "", "😀"]


def test_a_character_is_given_with_its_last_byte() -> None:
    ids = folders.byte_level().encode("🦊").ids
    assert len(ids) > 1, "the test's tokenizer should split this emoji"
    detokenizer = Detokenizer(byte_level())
    assert [detokenizer.push([token]) for token in ids] == [""] * (len(ids) - 1) + ["🦊"]


def test_an_unfinished_character_is_given_as_a_replacement_at_the_end_only() -> None:
    ids = folders.byte_level().encode("🦊").ids[:-1]
    detokenizer = Detokenizer(byte_level())
    assert detokenizer.push(ids) == ""
    assert detokenizer.flush() == "\ufffd"


def test_special_tokens_have_no_text() -> None:
    end = folders.byte_level().token_to_id("<|im_end|>")
    word = folders.byte_level().encode("fox").ids
    assert "".join(stream(byte_level(), [[end], word, [end, end]])) == "fox"


def test_endless_unfinished_characters_do_not_grow_the_window() -> None:
    [lead] = [token for token in range(BYTE_LEVEL_SIZE) if byte_level().spelling(token) == "ð"]  # byte 0xF0
    decoded: list[int] = []

    class Counting:
        byte_ids = byte_level().byte_ids
        is_silent = staticmethod(byte_level().is_silent)

        def decode(self, token_ids: list[int]) -> str:
            decoded.append(len(token_ids))
            return byte_level().decode(token_ids)

    detokenizer = Detokenizer(Counting())
    text = detokenizer.push([lead] * 1000) + detokenizer.flush()
    assert text == "\ufffd" * 1000
    assert max(decoded) <= 66


def test_the_librarys_own_stream_fails_where_this_one_does_not() -> None:
    """The reason for an own algorithm; if this fails, the library has learnt it and ours may go."""
    ids = [FIRST_BYTE + 0x41, FIRST_BYTE + 0xE4, folders.byte_fallback().token_to_id("b")]
    library = DecodeStream(skip_special_tokens=True)
    assert [library.step(folders.byte_fallback(), token) for token in ids[:2]] == ["A", None]
    with pytest.raises(Exception, match="Invalid prefix"):
        library.step(folders.byte_fallback(), ids[2])
    assert "".join(stream(byte_fallback(), [ids])) == "A\ufffdb"
