"""What changes one sequence's logits: penalties, biases, and what is allowed at all. Kept by own vocabulary rows.

A sequence's controls are made once, when its first token is drawn; each step then costs what was seen, not the
vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liger.domain import Sampling
from liger.schedule import SequenceStart
from worker.sampling.transfers import put


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The ids that this rank's logits are of, and how many there are in all."""

    own: range
    size: int

    def places(self, ids: Iterable[int]) -> list[int]:
        """Return the columns of those ids that are this rank's."""
        first, own = self.own.start, self.own
        return [token - first for token in ids if token in own]


class Controls:
    """One sequence's, on one rank.

    Args:
        start: The sequence.
    """

    def __init__(self, start: SequenceStart) -> None:
        self._start = start
        self._own: OwnControls | None = None

    @staticmethod
    def needed(sampling: Sampling) -> bool:
        """Return whether a sequence that is drawn so has any."""
        has_lists = bool(sampling.logit_bias or sampling.allowed_token_ids or sampling.banned_token_ids)
        return sampling.has_penalties or has_lists

    @property
    def counts(self) -> bool:
        """Whether drawn tokens are to be told."""
        return self._start.sampling.has_penalties

    def of(self, vocabulary: Vocabulary, device: torch.device) -> "OwnControls":
        """Return them for this rank's part of the vocabulary, whose logits are on a device."""
        if self._own is None:
            self._own = OwnControls(self._start, vocabulary, device)
        return self._own

    def add(self, token_id: int) -> None:
        """Count a token that was drawn; nothing is counted where none are."""
        if self._own is not None:
            self._own.add(token_id)


class OwnControls:
    """One sequence's controls on this rank's part of the vocabulary.

    Args:
        start: The sequence, with its prompt if it has a repetition penalty, and its output so far.
        vocabulary: This rank's part.
        device: Where the logits are. What steps change is kept on the host.
    """

    def __init__(self, start: SequenceStart, vocabulary: Vocabulary, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self.sampling = sampling = start.sampling
        biases = [(token, bias) for token, bias in sampling.logit_bias if token in vocabulary.own]
        # on the device
        self.bias_places = put(torch.tensor(vocabulary.places(token for token, _ in biases), dtype=torch.int64), device)
        self.biases = put(torch.tensor([bias for _, bias in biases], dtype=torch.float32), device)
        self.allowed = allowed = _allowed(sampling, vocabulary.size)  # [whole vocabulary] bool, on the host; None: all
        own = slice(vocabulary.own.start, vocabulary.own.stop)
        self.forbidden = None if allowed is None else put(~allowed[own], device)  # [own vocabulary rows] bool
        self._seen: dict[int, int] = {}  # by column: where it is in what follows
        self._places = torch.zeros(64, dtype=torch.int64)
        self._counts = torch.zeros(64, dtype=torch.float32)
        if sampling.repetition_penalty != 1.0:
            self._see(dict.fromkeys(vocabulary.places(start.prompt_token_ids)))
        for token in start.output_token_ids:
            self.add(token)

    @property
    def seen(self) -> Tensor:
        """Columns of the tokens that penalties concern, each once, [n] int64."""
        return self._places[: len(self._seen)]

    @property
    def counts(self) -> Tensor:
        """How often each of `seen` is in the output, [n] float32."""
        return self._counts[: len(self._seen)]

    def add(self, token_id: int) -> None:
        """Count a token of the output."""
        if self.sampling.has_penalties and token_id in self._vocabulary.own:
            column = token_id - self._vocabulary.own.start
            if column not in self._seen:
                self._see([column])
            self._counts[self._seen[column]] += 1.0

    def _see(self, columns: Iterable[int]) -> None:
        """Take columns in that were not seen before."""
        new, first = list(columns), len(self._seen)
        self._seen.update(zip(new, range(first, first + len(new)), strict=True))
        more = max(0, len(self._seen) - len(self._places))
        if more:
            more = max(more, len(self._places))
            self._places = torch.cat([self._places, self._places.new_zeros(more)])
            self._counts = torch.cat([self._counts, self._counts.new_zeros(more)])
        self._places[first : len(self._seen)] = torch.tensor(new, dtype=torch.int64)


def is_anything_left(allowed: Tensor | None, banned: Sequence[int], size: int) -> bool:
    """Return whether tokens may be drawn besides the banned ones.

    Args:
        allowed: [whole vocabulary] bool; None for all.
        banned: Ids.
        size: Of the whole vocabulary.
    """
    if allowed is None:
        return len(set(banned)) < size
    left = allowed.clone()
    left[[token for token in banned if token < size]] = False
    return bool(left.any())


def _allowed(sampling: Sampling, size: int) -> Tensor | None:
    if not sampling.allowed_token_ids and not sampling.banned_token_ids:
        return None
    allowed = torch.full((size,), not sampling.allowed_token_ids)
    allowed[[token for token in sampling.allowed_token_ids if token < size]] = True
    allowed[[token for token in sampling.banned_token_ids if token < size]] = False
    return allowed
