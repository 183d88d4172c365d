"""Constraints, compiled once for all samples and requests that share them."""

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from llguidance import LLMatcher
from torch import Tensor

from liger.domain import Constraint
from liger.grammars import grammar_of, limits
from worker.structured.vocabulary import Vocabulary

MAX_KEPT: Final = 32
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A constraint before its first token; copied for each output."""

    matcher: LLMatcher | None  # None if it cannot be compiled
    first_mask: Tensor | None


class CompiledConstraints:
    """The last constraints that were asked for. For one thread.

    Args:
        vocabulary: The model's tokens.
        max_kept: Constraints kept; the longest unused is dropped.
    """

    def __init__(self, vocabulary: Vocabulary, max_kept: int = MAX_KEPT) -> None:
        self._vocabulary = vocabulary
        self._max_kept = max_kept
        self._kept: OrderedDict[Constraint, Compiled] = OrderedDict()

    def of(self, constraint: Constraint) -> Compiled:
        """Return a constraint compiled; if it cannot be, say so in the log and allow an output's end alone."""
        compiled = self._kept.get(constraint)
        if compiled is None:
            compiled = self._kept[constraint] = self._compile(constraint)
            if len(self._kept) > self._max_kept:
                self._kept.popitem(last=False)
        self._kept.move_to_end(constraint)
        return compiled

    def _compile(self, constraint: Constraint) -> Compiled:
        vocabulary = self._vocabulary
        if vocabulary.tokenizer is None:
            return self._refuse(constraint, "the model's folder has no tokenizer.json, or no end of sequence")
        try:
            grammar = grammar_of(constraint)
        except ValueError as error:
            return self._refuse(constraint, str(error))
        matcher = LLMatcher(vocabulary.tokenizer, grammar, log_level=0, limits=limits())
        if matcher.is_error():
            return self._refuse(constraint, matcher.get_error())
        first = vocabulary.mask(matcher)  # what is too complex from the start shows here
        if matcher.is_error():
            return self._refuse(constraint, matcher.get_error())
        return Compiled(matcher=matcher, first_mask=first)

    def _refuse(self, constraint: Constraint, reason: str) -> Compiled:
        why = reason.partition("\n")[0][:200]
        _LOG.warning("a %s was let through that cannot be compiled here: %s", constraint.kind.value, why)
        return Compiled(matcher=None, first_mask=self._vocabulary.ending)
