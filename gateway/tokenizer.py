"""A model's tokenizer: text to ids and back, as its Hugging Face folder says."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tokenizers import Encoding, Tokenizer

from gateway.sizes import check_call_tokens
from liger.errors import ModelFolderError

INLINE_CHARACTERS: Final = 2_000  # about half a millisecond; longer texts leave the event loop alone

PART_CHARACTERS: Final = 1_000_000  # tokenised at once

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text's tokens."""

    token_ids: list[int]
    token_type_ids: list[int]


class ModelTokenizer:
    """One model's tokenizer, shared by all calls. tokenizer.json alone says which tokens stand around a text.

    Args:
        content: The text of tokenizer.json.

    Raises:
        ModelFolderError: tokenizer.json is damaged.
    """

    def __init__(self, content: str) -> None:
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_str(content)
        except Exception as error:  # the library raises bare Exception
            raise ModelFolderError(f"the model's tokenizer.json cannot be read: {error}") from error
        self._tokenizer.no_truncation()  # folders carry the settings of their training
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(number for number, token in added.items() if token.special)
        self.byte_ids = _byte_ids(self._tokenizer)

    async def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[Encoded]:
        """Return the tokens of each text.

        Raises:
            InputTooLongError: They are more than a call may bring.
        """
        return await self._run(texts, self._encode, add_special_tokens)

    async def encode_within(self, texts: Sequence[str], limit: int) -> list[Encoded]:
        """Return the tokens of each text with special tokens, cut at its end to `limit` tokens.

        Raises:
            InputTooLongError: They are more than a call may bring.
        """
        return await self._run(texts, self._encode_within, limit)

    async def encode_pairs(self, firsts: Sequence[str], seconds: Sequence[str], limit: int | None) -> list[Encoded]:
        """Return the tokens of each pair with special tokens; the longer text is cut first if there is a limit.

        Raises:
            InputTooLongError: They are more than a call may bring.
        """
        return await self._run((*firsts, *seconds), self._encode_pairs, limit)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text

    def is_silent(self, token_id: int) -> bool:
        """Tell whether an id has no text: special tokens and ids that the vocabulary does not name."""
        return token_id in self._special_ids or self._tokenizer.id_to_token(token_id) is None

    def spelling(self, token_id: int) -> str:
        """Return the vocabulary's own spelling of an id, empty if it has none."""
        return self._tokenizer.id_to_token(token_id) or ""

    async def _run(self, texts: Sequence[str], work: Any, option: Any) -> list[Encoded]:
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            encoded: list[Encoded] = work(texts, option)
            return encoded
        return await asyncio.to_thread(work, texts, option)

    def _encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[Encoded]:
        return self._collect(texts, add_special_tokens, _encoded)

    def _encode_within(self, texts: Sequence[str], limit: int) -> list[Encoded]:
        room = max(limit - self._tokenizer.num_special_tokens_to_add(False), 0)

        def cut(encoding: Encoding) -> Encoded:
            encoding.truncate(room)
            return _encoded(self._tokenizer.post_process(encoding))

        return self._collect(texts, False, cut)

    def _encode_pairs(self, texts: Sequence[str], limit: int | None) -> list[Encoded]:
        encodings = self._collect(texts, False, lambda encoding: encoding)
        firsts, seconds = encodings[: len(texts) // 2], encodings[len(texts) // 2 :]
        if limit is not None:
            room = max(limit - self._tokenizer.num_special_tokens_to_add(True), 0)
            for first, second in zip(firsts, seconds, strict=True):
                _fit(first, second, room)
        return [
            _encoded(self._tokenizer.post_process(first, second)) for first, second in zip(firsts, seconds, strict=True)
        ]

    def _collect(
        self, texts: Sequence[str], add_special_tokens: bool, take: Callable[[Encoding], ResultT]
    ) -> list[ResultT]:
        """Tokenise some texts at a time and keep what `take` makes of each, as encodings are large."""
        found: list[ResultT] = []
        num_tokens = 0
        for part in _parts(texts):
            # Only the batch call lets go of the interpreter lock.
            encodings = self._tokenizer.encode_batch_fast(part, add_special_tokens=add_special_tokens)
            num_tokens += sum(map(len, encodings))
            check_call_tokens(num_tokens)
            found += map(take, encodings)
        return found


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Cut texts into lists of at most PART_CHARACTERS, or of one longer text."""
    part: list[str] = []
    size = 0
    for text in texts:
        if part and size + len(text) > PART_CHARACTERS:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    yield part


def _encoded(encoding: Encoding) -> Encoded:
    return Encoded(encoding.ids, encoding.type_ids)


def _fit(first: Encoding, second: Encoding, room: int) -> None:
    """Cut a pair to `room` tokens, the longer text first, as the library's "longest_first" does."""
    short, long = (first, second) if len(first) <= len(second) else (second, first)
    if len(short) + len(long) > room:
        kept = min(len(short), room // 2)
        short.truncate(kept)
        long.truncate(room - kept)


def _byte_ids(tokenizer: Tokenizer) -> dict[int, int]:
    """Return the byte of each byte token, if the decoder reads them as bytes; else nothing."""
    ids = {tokenizer.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
    letter = tokenizer.token_to_id("<0x41>")
    reads_bytes = letter is not None and tokenizer.decode([letter]) == "A"
    return {number: byte for number, byte in ids.items() if number is not None} if reads_bytes else {}
