"""One sample's way from tokens to text: detokenised, stop strings found, coalesced until the client takes it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.stop import StopScanner
from gateway.work import SampleTokens
from liger.client.results import Delta, Finished
from liger.domain import FinishReason
from liger.errors import LigerError
from liger.schedule import Logprob

_BY_TOKEN: Final = frozenset({FinishReason.STOP, FinishReason.GRAMMAR})  # ends of which the last token is the cause


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
    grammar_ids: frozenset[int]  # those that end what a grammar has completed; empty without one
    spellings: Mapping[int, str]  # the vocabulary's own, of all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihoods:
    """What the log-probabilities of a sample's tokens are for."""

    are_shown: bool  # the client gets them
    rank: bool  # samples are compared by them


class Sample:
    """One sample of a generation.

    Args:
        index: Which one.
        detokenizer: Its own.
        scanner: Its own.
        stop_tokens: What ends it.
        min_tokens: Stop strings do not count before so many tokens.
        likelihoods: What its log-probabilities are for.
    """

    def __init__(
        self,
        index: int,
        *,
        detokenizer: TextMaker,
        scanner: StopScanner,
        stop_tokens: StopTokens,
        min_tokens: int,
        likelihoods: Likelihoods,
    ) -> None:
        self._index = index
        self._detokenizer = detokenizer
        self._scanner = scanner
        self._stop_tokens = stop_tokens
        self._min_tokens = min_tokens
        self._likelihoods = likelihoods
        self._texts: list[str] = []  # not yet taken, like the next three
        self._token_ids: list[int] = []
        self._logprobs: list[Logprob] = []
        self._finished: Finished | None = None
        self._last_token = 0
        self._logprob = 0.0  # of all tokens, where they are ranked
        self.num_tokens = 0
        self.has_ended = False

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability a token, where samples are ranked; what has none is the least likely."""
        mean = self._logprob / self.num_tokens if self.num_tokens else -math.inf
        return -math.inf if math.isnan(mean) else mean

    def take(self, event: SampleTokens) -> bool:
        """Take more tokens; those after the end, and those seen before, are ignored.

        Returns:
            Whether a stop string ended the sample, which the controller does not know yet.

        Raises:
            LigerError: Tokens are missing before these, or their likelihoods.
        """
        if self.has_ended:
            return False
        if event.offset > self.num_tokens:
            raise LigerError(f"tokens {self.num_tokens} to {event.offset - 1} of sample {self._index} are missing")
        needs_logprobs = self._likelihoods.are_shown or self._likelihoods.rank
        if needs_logprobs and len(event.logprobs) != len(event.token_ids):
            raise LigerError(f"tokens of sample {self._index} came without their likelihoods")
        seen = self.num_tokens - event.offset
        reason = event.finish_reason
        for place in range(seen, len(event.token_ids)):
            is_end = reason in _BY_TOKEN and place == len(event.token_ids) - 1
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
        if self._likelihoods.are_shown:
            self._logprobs.extend(logprobs)
        if self._likelihoods.rank:
            self._logprob += sum(item.logprob for item in logprobs)
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
        by_token = reason in _BY_TOKEN and self.num_tokens > 0
        if by_token and self._last_token in self._stop_tokens.grammar_ids:
            reason = FinishReason.GRAMMAR
        self._finish(reason, self._stop_tokens.spellings.get(self._last_token, "") if by_token else "")

    def _finish(self, reason: FinishReason, stop: str) -> None:
        self.has_ended = True
        logprob = self._logprob if self._likelihoods.rank else None
        self._finished = Finished(
            index=self._index, reason=reason, stop=stop, num_tokens=self.num_tokens, logprob=logprob
        )
