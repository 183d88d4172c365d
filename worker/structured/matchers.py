"""The structured outputs of a rank, advanced while the next forward runs."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from torch import Tensor

from liger.domain import Constraint
from liger.grammars import start_deep_thread
from worker.structured.compiled import CompiledConstraints
from worker.structured.output import StructuredOutput
from worker.structured.vocabulary import Vocabulary

_LOG: Final = logging.getLogger(__name__)


class Matchers:
    """Begins structured outputs. All work is done, in the order that it was asked for, by one host thread.

    Args:
        folder: The model's.
        vocabulary_size: Ids with a logit.
        eos_token_ids: Ids that end a sequence.
        clock_ns: Monotonic nanoseconds.
    """

    def __init__(
        self,
        *,
        folder: Path,
        vocabulary_size: int,
        eos_token_ids: Sequence[int],
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.waited_mask_ns = 0  # for masks, in all
        self._clock_ns = clock_ns
        self._thread = start_deep_thread("structured-output")
        self._vocabulary = self._thread.submit(_read, folder, vocabulary_size, eos_token_ids)
        self._compiled = self._thread.submit(lambda: CompiledConstraints(self._vocabulary.result()))

    def begin(
        self, constraint: Constraint, stop_token_ids: Sequence[int] = (), output_token_ids: Sequence[int] = ()
    ) -> "FollowedOutput":
        """Queue an output's start.

        Args:
            constraint: What must hold of it.
            stop_token_ids: Ids that end its sequence.
            output_token_ids: What it has had already.
        """
        stops, tokens = tuple(stop_token_ids), tuple(output_token_ids)
        return FollowedOutput(self, lambda: self._begin(constraint, stops, tokens), stops)

    def close(self) -> None:
        """End the thread after the work that it has begun."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def queue(self, work: Callable[[], StructuredOutput], stop_token_ids: tuple[int, ...]) -> Future[StructuredOutput]:
        """Have the host thread do some work on an output; if it fails, only the output's end is allowed."""
        return self._thread.submit(self._do, work, stop_token_ids)

    def wait(self, future: Future[StructuredOutput]) -> StructuredOutput:
        """Wait for queued work, and count the time."""
        began_ns = self._clock_ns()
        output = future.result()
        self.waited_mask_ns += self._clock_ns() - began_ns
        return output

    def _begin(self, constraint: Constraint, stops: tuple[int, ...], tokens: tuple[int, ...]) -> StructuredOutput:
        vocabulary, compiled = self._vocabulary.result(), self._compiled.result()  # made before, on this thread
        return StructuredOutput(vocabulary, compiled.new_matcher(constraint), stops, tokens)

    def _do(self, work: Callable[[], StructuredOutput], stop_token_ids: tuple[int, ...]) -> StructuredOutput:
        try:
            return work()
        except BaseException:  # noqa: BLE001 - a panic of the library is no Exception, and must not end the epoch
            _LOG.exception("a structured output failed; only its end is allowed from here")
            return StructuredOutput(self._vocabulary.result(), None, stop_token_ids)


class FollowedOutput:
    """One sequence's output as the launching thread sees it: what is queued, and the mask to come.

    Whoever draws holds it, so that a late draw of an ended sequence never meets the next one of its row.
    """

    def __init__(
        self, matchers: Matchers, begin: Callable[[], StructuredOutput], stop_token_ids: tuple[int, ...]
    ) -> None:
        self._matchers = matchers
        self._stop_token_ids = stop_token_ids
        self._last = matchers.queue(begin, stop_token_ids)

    def advance(self, token_id: int) -> None:
        """Queue the next token, after which the next mask is made."""
        before = self._last  # done when this is reached, as the thread keeps the order
        self._last = self._matchers.queue(lambda: before.result().advance(token_id), self._stop_token_ids)

    def mask(self) -> Tensor | None:
        """Wait for and return what may be drawn next.

        Returns:
            bool [vocabulary], True for what is allowed, not to be written to; None if the output is over.
        """
        return self._matchers.wait(self._last).next_mask


def _read(folder: Path, size: int, eos_token_ids: Sequence[int]) -> Vocabulary:
    try:
        return Vocabulary.read(folder, size, eos_token_ids)
    except (OSError, ValueError) as error:
        _LOG.warning("structured output is not possible: %s", error)
        return Vocabulary(None, size, [token_id for token_id in eos_token_ids if token_id < size])
