"""Token ids to text, as they come: whole characters only, and in sum what decoding all at once gives.

The text of a window of recent tokens is decoded again with each token; what is new in it is given out, but for a
last "�", which may be the first bytes of a character. (`tokenizers.decoders.DecodeStream` is not used: it raises on
byte-fallback vocabularies when bytes are no UTF-8, and cannot be flushed.)

Byte-fallback vocabularies (SentencePiece) spell rare characters as tokens of single bytes, and their decoder turns a
whole run of bytes into "�" if any of it is no UTF-8; in a stream that would take back characters already given. Here a
run is read as a UTF-8 stream: the same text for every valid run, a "�" for each ill-formed part otherwise.
"""

import codecs
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

REPLACEMENT: Final = "\ufffd"
MAX_PARTIAL_TOKENS: Final = 4  # an unfinished character has at most 3 bytes, so at most 3 tokens
MAX_WINDOW_TOKENS: Final = 64


class Decoder(Protocol):
    """What a detokenizer needs of a tokenizer."""

    @property
    def byte_ids(self) -> Mapping[int, int]:
        """Bytes by id of a byte-fallback vocabulary's byte tokens, else nothing."""

    def is_silent(self, token_id: int) -> bool:
        """Tell whether an id has no text: special tokens and ids that the vocabulary does not name."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""


class Detokenizer:
    """One sample's text."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._window: list[int] = []  # recent ids whose text depends on one another
        self._given = 0  # characters of the window's text that were given out
        self._chunk = 0  # where in the window the tokens since the last complete text begin
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_ids: Sequence[int]) -> str:
        """Take tokens; return the text that is final with them."""
        return "".join([self._push(token) for token in token_ids if not self._decoder.is_silent(token)])

    def flush(self) -> str:
        """Return what was held back, at the sample's end."""
        held = self._decoder.decode(self._window)[self._given :]
        self._given += len(held)
        return self._bytes.decode(b"", final=True) + held

    def _push(self, token: int) -> str:
        if (byte := self._decoder.byte_ids.get(token)) is not None:
            return self._push_byte(token, byte)
        before = self._bytes.decode(b"", final=True) if self._decoder.byte_ids else ""
        self._window.append(token)
        text = self._decoder.decode(self._window)
        may_change = text.endswith(REPLACEMENT) and not self._decoder.byte_ids
        final = len(text) - may_change
        new = text[self._given : final]
        self._given = max(self._given, final)
        if not may_change:
            self._move_window(self._chunk)
        elif len(self._window) > MAX_WINDOW_TOKENS:
            self._move_window(len(self._window) - MAX_PARTIAL_TOKENS, num_held=1)
        return before + new

    def _push_byte(self, token: int, byte: int) -> str:
        is_first = not self._window
        self._window = [token]
        self._chunk = 0
        alone = self._decoder.decode(self._window)
        self._given = len(alone)
        if is_first and byte < 0x80:
            return alone  # the decoder may strip the text's first space
        return self._bytes.decode(bytes([byte]))

    def _move_window(self, start: int, num_held: int = 0) -> None:
        """Let the window begin at `start`, unless that would leave it without text to lean on."""
        text = self._decoder.decode(self._window[start:])
        if text:
            del self._window[:start]
            self._given = len(text) - num_held
            self._chunk = len(self._window)


class Silence:
    """Stands in where a model has no tokenizer: ids only, no text."""

    def push(self, token_ids: Sequence[int]) -> str:  # noqa: ARG002 - same as Detokenizer's
        """Return no text."""
        return ""

    def flush(self) -> str:
        """Return no text."""
        return ""
