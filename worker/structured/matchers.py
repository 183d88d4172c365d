"""The structured outputs of a rank, by row of its sequence table, advanced while the next forward runs."""

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
    """Masks by row. All calls come from the launching thread; all work is done, in order, by one host thread.

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
        self.waited_mask_ns = 0  # by `mask`, in all
        self._clock_ns = clock_ns
        self._rows: dict[int, _Row] = {}
        self._thread = start_deep_thread("structured-output")
        self._vocabulary = self._thread.submit(_read, folder, vocabulary_size, eos_token_ids)
        self._compiled = self._thread.submit(lambda: CompiledConstraints(self._vocabulary.result()))

    def begin(self, row: int, constraint: Constraint | None, output_token_ids: Sequence[int] = ()) -> None:
        """Queue a sequence's start, after the tokens that it has had already; None leaves the row free."""
        self._rows.pop(row, None)
        if constraint is not None:
            self._rows[row] = held = _Row()
            self._queue(held, lambda: held.start(self._begin(constraint, tuple(output_token_ids))))

    def advance(self, row: int, token_id: int) -> None:
        """Queue a row's next token, after which its next mask is made."""
        held = self._rows.get(row)
        if held is not None:
            self._queue(held, lambda: held.advance(token_id))

    def mask(self, row: int) -> Tensor | None:
        """Wait for and return what a row may draw next.

        Returns:
            bool [vocabulary], True for what is allowed, not to be written to; None if the row has no constraint, or its
            output is over.
        """
        held = self._rows.get(row)
        if held is None:
            return None
        began_ns = self._clock_ns()
        mask = held.mask.result()
        self.waited_mask_ns += self._clock_ns() - began_ns
        return mask

    def end(self, row: int) -> None:
        """Let go of a row; what is queued for it is done, so that the work is the same on every rank, and dropped."""
        self._rows.pop(row, None)

    def close(self) -> None:
        """Let go of all rows and end the thread, after the work that it has begun."""
        self._rows.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self, constraint: Constraint, output_token_ids: tuple[int, ...]) -> StructuredOutput:
        vocabulary, compiled = self._vocabulary.result(), self._compiled.result()  # made before, on this thread
        return StructuredOutput.begin(vocabulary, compiled, constraint, output_token_ids)

    def _queue(self, held: "_Row", work: Callable[[], Tensor | None]) -> None:
        held.mask = self._thread.submit(self._do, held, work)

    def _do(self, held: "_Row", work: Callable[[], Tensor | None]) -> Tensor | None:
        try:
            return work()
        except BaseException:  # noqa: BLE001 - a panic of the library is no Exception, and must not end the epoch
            _LOG.exception("a structured output failed; only its end is allowed from here")
            return held.start(StructuredOutput(self._vocabulary.result(), None, self._vocabulary.result().ending))


class _Row:
    """A row's output, which only the host thread touches, and its mask to come."""

    def __init__(self) -> None:
        self.mask: Future[Tensor | None] = Future()
        self._output: StructuredOutput | None = None

    def start(self, output: StructuredOutput) -> Tensor | None:
        self._output = output
        return output.next_mask

    def advance(self, token_id: int) -> Tensor | None:
        assert self._output is not None, "a row begins before it advances"
        self._output.advance(token_id)
        return self._output.next_mask


def _read(folder: Path, size: int, eos_token_ids: Sequence[int]) -> Vocabulary:
    try:
        return Vocabulary.read(folder, size, eos_token_ids)
    except (OSError, ValueError) as error:
        _LOG.warning("structured output is not possible: %s", error)
        return Vocabulary(None, size, [token_id for token_id in eos_token_ids if token_id < size])
