"""Draws whole outputs under the masks of a rank's matchers, as a model with random logits would."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

from liger.domain import Constraint, ConstraintKind
from worker.structured.matchers import FollowedOutput, Matchers


def json_schema(text: str) -> Constraint:
    return Constraint(kind=ConstraintKind.JSON_SCHEMA, text=text)


def regex(text: str) -> Constraint:
    return Constraint(kind=ConstraintKind.REGEX, text=text)


def grammar(text: str) -> Constraint:
    return Constraint(kind=ConstraintKind.GRAMMAR, text=text)


class Outputs:
    """Outputs by number, drawn token by token."""

    def __init__(self, matchers: Matchers, tokenizer: Tokenizer, eos_token_ids: Sequence[int]) -> None:
        self.matchers = matchers
        self.eos_token_ids = set(eos_token_ids)
        self._tokenizer = tokenizer
        self._outputs: dict[int, FollowedOutput] = {}

    def begin(self, row: int, constraint: Constraint, output_token_ids: Sequence[int] = ()) -> None:
        self._outputs[row] = self.matchers.begin(constraint, output_token_ids=output_token_ids)

    def advance(self, row: int, token_id: int) -> None:
        self._outputs[row].advance(token_id)

    def mask(self, row: int) -> torch.Tensor | None:
        return self._outputs[row].mask()

    def allowed(self, row: int) -> list[int] | None:
        """Return the ids that an output may take next, None for all."""
        mask = self.mask(row)
        return None if mask is None else mask.nonzero().flatten().tolist()

    def draw(self, row: int, seed: int, most: int = 3000) -> list[int]:
        """Draw an output to its end; return its tokens without the last."""
        noise = torch.Generator().manual_seed(seed)
        token_ids: list[int] = []
        while len(token_ids) < most:
            token_id = self.draw_one(row, noise)
            if token_id in self.eos_token_ids:
                return token_ids
            token_ids.append(token_id)
        raise AssertionError(f"no end after {most} tokens: {self.text(token_ids)[-200:]!r}")

    def draw_one(self, row: int, noise: torch.Generator) -> int:
        mask = self.mask(row)
        assert mask is not None, "the output goes on"
        logits = torch.randn(len(mask), generator=noise).masked_fill(~mask, -torch.inf)
        token_id = int(logits.argmax())
        assert mask[token_id], "something is always allowed"
        self.advance(row, token_id)
        return token_id

    def feed(self, row: int, text: str) -> None:
        """Advance an output by a text's own tokens."""
        for token_id in self.tokens(text):
            self.advance(row, token_id)

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def text(self, token_ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def output(self, constraint: Constraint, *, row: int = 0, seed: int = 0) -> str:
        """Return one whole output under a constraint."""
        self.begin(row, constraint)
        return self.text(self.draw(row, seed))
