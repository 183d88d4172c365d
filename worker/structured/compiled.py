"""Constraints, compiled once for all samples and requests that share them."""

import logging
from collections import OrderedDict
from typing import Final

from llguidance import LLMatcher

from liger.domain import Constraint
from liger.grammars import grammar_of, limits
from worker.structured.vocabulary import Vocabulary

MAX_KEPT: Final = 32
MAX_REASON: Final = 200  # characters of a reason that is logged
_LOG: Final = logging.getLogger(__name__)


class CompiledConstraints:
    """The last constraints that were asked for. For one thread.

    Args:
        vocabulary: The model's tokens.
        max_kept: Constraints kept; the longest unused is dropped.
    """

    def __init__(self, vocabulary: Vocabulary, max_kept: int = MAX_KEPT) -> None:
        self._vocabulary = vocabulary
        self._max_kept = max_kept
        self._kept: OrderedDict[Constraint, LLMatcher | None] = OrderedDict()

    def new_matcher(self, constraint: Constraint) -> LLMatcher | None:
        """Return a matcher before its first token, of its own; None, said once in the log, if it cannot be compiled."""
        if constraint not in self._kept:
            self._kept[constraint] = self._compile(constraint)
            if len(self._kept) > self._max_kept:
                self._kept.popitem(last=False)
        self._kept.move_to_end(constraint)
        compiled = self._kept[constraint]
        return compiled.deep_copy() if compiled is not None else None

    def _compile(self, constraint: Constraint) -> LLMatcher | None:
        matcher, why = self._try(constraint)
        if why:
            reason = why.partition("\n")[0][:MAX_REASON]
            _LOG.warning("a %s was let through that cannot be compiled here: %s", constraint.kind.value, reason)
            return None
        return matcher

    def _try(self, constraint: Constraint) -> tuple[LLMatcher | None, str]:
        """Return a matcher, and why it is of no use, empty if it is."""
        if self._vocabulary.tokenizer is None:
            return None, "the model's folder has no tokenizer.json, or no end of sequence"
        try:
            grammar = grammar_of(constraint)
        except ValueError as error:
            return None, str(error)
        matcher = LLMatcher(self._vocabulary.tokenizer, grammar, log_level=0, limits=limits())
        if not matcher.is_error():
            matcher.compute_bitmask()  # what is too complex from the start shows here
        return matcher, matcher.get_error()
