"""The model's tokens as llguidance needs them, and masks over them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor


class Vocabulary:
    """Tokens that a constraint chooses from.

    Args:
        tokenizer: The model's; None where there is none.
        size: Vocabulary ids with a logit.
        eos_token_ids: Ids that end a sequence, each below `size`.
    """

    def __init__(self, tokenizer: LLTokenizer | None, size: int, eos_token_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self.eos_token_ids = frozenset(eos_token_ids)

    @classmethod
    def read(cls, folder: Path, size: int, eos_token_ids: Sequence[int]) -> "Vocabulary":
        """Read a model folder's tokenizer.json; without one, or an end of sequence, nothing can be compiled.

        Raises:
            ValueError: It is not a tokenizer.
            OSError: It cannot be read.
        """
        path = folder / "tokenizer.json"
        ends = [token_id for token_id in eos_token_ids if token_id < size]
        if not ends or not path.is_file():
            return cls(None, size, ends)
        return cls(LLTokenizer(path.read_text(encoding="utf-8"), eos_token=ends), size, ends)

    def ends(self, stop_token_ids: Sequence[int]) -> list[int]:
        """Return which tokens may end an output: the stop tokens that are no text, else the model's own ends."""
        known = [token_id for token_id in stop_token_ids if token_id < self.size]
        ends = [token_id for token_id in known if token_id in self.eos_token_ids or self._is_special(token_id)]
        return ends or sorted(self.eos_token_ids)

    def ending(self, ends: Sequence[int]) -> Tensor | None:
        """Return the mask that allows some ends alone; None if there are none, as nothing can be asked then."""
        if not ends:
            return None
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[list(ends)] = True
        return mask

    def mask(self, matcher: LLMatcher, ending: Tensor | None) -> Tensor | None:
        """Return which tokens may come next, bool [size]; the ends alone, if the matcher knows of none."""
        bias = np.frombuffer(matcher.compute_logit_bias(), dtype=np.uint8)[: self.size]
        if ending is None or matcher.is_error() or not bias.any():
            return ending
        mask = torch.zeros(self.size, dtype=torch.bool)  # ids that the tokenizer has not are never drawn
        mask[: len(bias)] = torch.from_numpy(bias != 0)
        own = list(self.eos_token_ids)
        may_end = bool(mask[own].any())
        mask[own] = False
        return mask | ending if may_end else mask

    def _is_special(self, token_id: int) -> bool:
        tokenizer = self.tokenizer
        return tokenizer is not None and token_id < tokenizer.vocab_size and tokenizer.is_special_token(token_id)
