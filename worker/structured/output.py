"""One sequence's place in its grammar."""

from collections.abc import Sequence
from typing import Self

from llguidance import LLMatcher
from torch import Tensor

from worker.structured.vocabulary import Vocabulary


class StructuredOutput:
    """Follows an output token by token. For one thread; the same on every rank, as it depends on the tokens alone.

    Args:
        vocabulary: The model's tokens.
        matcher: This output's own, before its first token; None for a constraint that cannot be compiled.
        stop_token_ids: Ids that end the sequence.
        output_token_ids: What it has had already.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        matcher: LLMatcher | None,
        stop_token_ids: Sequence[int] = (),
        output_token_ids: Sequence[int] = (),
    ) -> None:
        ends = vocabulary.ends(stop_token_ids)
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._ending = vocabulary.ending(ends)
        self._stops = frozenset((*stop_token_ids, *ends))
        self._is_over = False
        for token_id in output_token_ids:
            self._consume(token_id)
        # bool [vocabulary]; None once the output is over: what is drawn then is not used
        self.next_mask: Tensor | None = self._compute()

    def advance(self, token_id: int) -> Self:
        """Take one more token, make the next mask and return this output."""
        self._consume(token_id)
        self.next_mask = self._compute()
        return self

    def _consume(self, token_id: int) -> None:
        if token_id in self._stops:
            self._is_over = True
        elif self._matcher is not None and not self._is_over:
            self._matcher.consume_token(token_id)  # one that does not fit leaves it in error: then only an end does

    def _compute(self) -> Tensor | None:
        if self._is_over:
            return None
        if self._matcher is None or self._matcher.is_stopped():
            return self._ending
        return self._vocabulary.mask(self._matcher, self._ending)
