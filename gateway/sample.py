"""One sample's way from tokens to text: detokenised, stop strings found, coalesced until the client takes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.stop import StopScanner
from gateway.work import SampleTokens
from liger.client.results import Delta, Finished
from liger.domain import FinishReason
from liger.errors import LigerError
from liger.schedule import Logprob


class TextMaker(Protocol):
    """Turns tokens into text, as `gateway.detokenizer.Detokenizer` does."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Take tokens; return the text that is final with them."""

    def flush(self) -> str:
        """Return what was held back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTokens:
    """Ids that end a sample, and how they are told to the client."""

    silent_ids: frozenset[int]  # those whose text is not given out
    spellings: Mapping[int, str]  # the vocabulary's own, of all of them


class Sample:
    """One sample of a generation.

    Args:
        index: Which one.
        detokenizer: Its own.
        scanner: Its own.
        stop_tokens: What ends it.
        min_tokens: Stop strings do not count before so many tokens.
    """

    def __init__(
        self, index: int, *, detokenizer: TextMaker, scanner: StopScanner, stop_tokens: StopTokens, min_tokens: int
    ) -> None:
        self._index = index
        self._detokenizer = detokenizer
        self._scanner = scanner
        self._stop_tokens = stop_tokens
        self._min_tokens = min_tokens
        self._texts: list[str] = []  # not yet taken, like the next three
        self._token_ids: list[int] = []
        self._logprobs: list[Logprob] = []
        self._finished: Finished | None = None
        self._last_token = 0
        self.num_tokens = 0
        self.has_ended = False

    def take(self, event: SampleTokens) -> bool:
        """Take more tokens; those after the end, and those seen before, are ignored.

        Returns:
            Whether a stop string ended the sample, which the controller does not know yet.

        Raises:
            LigerError: Tokens are missing before these.
        """
        if self.has_ended:
            return False
        if event.offset > self.num_tokens:
            raise LigerError(f"tokens {self.num_tokens} to {event.offset - 1} of sample {self._index} are missing")
        seen = self.num_tokens - event.offset
        reason = event.finish_reason
        for place in range(seen, len(event.token_ids)):
            is_end = reason is FinishReason.STOP and place == len(event.token_ids) - 1
            if self._take_token(event.token_ids[place], event.logprobs[place : place + 1], is_end=is_end):
                return reason is None
        if reason is not None:
            self._end(reason)
        return False

    def events(self) -> list[Delta | Finished]:
        """Return what came since the last call, as one delta at most."""
        found: list[Delta | Finished] = []
        if self._token_ids or any(self._texts):
            text, token_ids, logprobs = "".join(self._texts), tuple(self._token_ids), tuple(self._logprobs)
            found.append(Delta(index=self._index, text=text, token_ids=token_ids, logprobs=logprobs))
            self._texts, self._token_ids, self._logprobs = [], [], []
        if self._finished is not None:
            found.append(self._finished)
            self._finished = None
        return found

    def _take_token(self, token: int, logprobs: Sequence[Logprob], *, is_end: bool) -> bool:
        """Take one token; return whether a stop string ended the sample."""
        self._token_ids.append(token)
        self._last_token = token
        self._logprobs.extend(logprobs)
        self.num_tokens += 1
        is_silent = is_end and token in self._stop_tokens.silent_ids
        return self._take_text("" if is_silent else self._detokenizer.push([token]))

    def _take_text(self, text: str) -> bool:
        """Take text; return whether a stop string ended the sample."""
        scan = self._scanner.scan(text, may_stop=self.num_tokens >= self._min_tokens)
        self._texts.append(scan.text)
        if scan.stop:
            self._finish(FinishReason.STOP, scan.stop)
        return bool(scan.stop)

    def _end(self, reason: FinishReason) -> None:
        if self._take_text(self._detokenizer.flush()):
            return  # a stop string was completed by what had been held back
        self._texts.append(self._scanner.flush())
        by_token = reason is FinishReason.STOP and self.num_tokens > 0
        self._finish(reason, self._stop_tokens.spellings.get(self._last_token, "") if by_token else "")

    def _finish(self, reason: FinishReason, stop: str) -> None:
        self.has_ended = True
        self._finished = Finished(index=self._index, reason=reason, stop=stop, num_tokens=self.num_tokens)
