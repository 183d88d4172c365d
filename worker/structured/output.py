"""One sequence's place in its grammar."""

from collections.abc import Sequence
from typing import Self

from llguidance import LLMatcher
from torch import Tensor

from liger.domain import Constraint
from worker.structured.compiled import CompiledConstraints
from worker.structured.vocabulary import Vocabulary


class StructuredOutput:
    """Follows an output token by token. For one thread; the same on every rank, as it depends on the tokens alone.

    Args:
        vocabulary: The model's tokens.
        matcher: This output's own, before its first token; None for a constraint that cannot be compiled.
        first_mask: What may come first.
    """

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher | None, first_mask: Tensor | None) -> None:
        self.next_mask = first_mask  # bool [vocabulary]; None once the output is over: what is drawn then is not used
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._is_over = False

    @classmethod
    def begin(
        cls,
        vocabulary: Vocabulary,
        compiled: CompiledConstraints,
        constraint: Constraint,
        output_token_ids: Sequence[int] = (),
    ) -> Self:
        """Return an output that has had some tokens already."""
        start = compiled.of(constraint)
        output = cls(vocabulary, start.matcher.deep_copy() if start.matcher else None, start.first_mask)
        for token_id in output_token_ids:
            output._consume(token_id)
        if output_token_ids:
            output._compute()
        return output

    def advance(self, token_id: int) -> Self:
        """Take one more token, make the next mask and return this output."""
        self._consume(token_id)
        self._compute()
        return self

    def _consume(self, token_id: int) -> None:
        if token_id in self._vocabulary.eos_token_ids:
            self._is_over = True
        elif self._matcher is not None and not self._is_over:
            self._matcher.consume_token(token_id)  # one that does not fit leaves it in error: then only an end does

    def _compute(self) -> None:
        if self._is_over:
            self.next_mask = None
        elif self._matcher is None or self._matcher.is_stopped():
            self.next_mask = self._vocabulary.ending
        else:
            self.next_mask = self._vocabulary.mask(self._matcher)
