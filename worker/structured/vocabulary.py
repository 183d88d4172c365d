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
        # bool [size]; None where no token ends an output, so that nothing can be asked of one that is complete
        self.ending: Tensor | None = None
        if eos_token_ids:
            self.ending = torch.zeros(size, dtype=torch.bool)
            self.ending[list(eos_token_ids)] = True

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

    def mask(self, matcher: LLMatcher) -> Tensor | None:
        """Return which tokens may come next, bool [size]; the ends alone, if the matcher knows of none."""
        bias = np.frombuffer(matcher.compute_logit_bias(), dtype=np.uint8)[: self.size]
        if matcher.is_error() or not bias.any():
            return self.ending
        mask = torch.zeros(self.size, dtype=torch.bool)  # ids that the tokenizer has not are never drawn
        mask[: len(bias)] = torch.from_numpy(bias != 0)
        return mask
