"""Bounds of batches, and who says what size of batch pays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from liger.domain import BatchKind, Task

MAX_START_BYTES: Final = 8 * 2**20
"""What the ranks are told of the sequences that begin in one batch, at most: a window holds some batches' starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Bounds of batches."""

    max_batch_tokens: int  # tokens of a prefill or encode batch; a longer single input runs alone
    max_sequences: int  # rows of the sequence table, so sequences in work
    max_beside_tokens: int = 512  # of a prefill or encode batch beside running sequences, if no cost model says better
    max_unread_tokens: int = 512  # a sequence so far ahead of its client waits
    weights: Mapping[Task, float] = field(default_factory=lambda: dict.fromkeys(Task, 1.0))


class Sizing(Protocol):
    """Says what size of batch pays."""

    def num_parts(self, kind: BatchKind, num_tokens: int) -> int:
        """Return in how many batches so many waiting tokens should run that would fit one."""
        ...

    def num_groups(self, num_sequences: int, context: int, *, beside_others: bool) -> int:
        """Return in how many decode batches so many sequences should run, beside other kinds of batches or not."""
        ...

    def tokens_beside(self, kind: BatchKind) -> int | None:
        """Return how many tokens a batch may have that others interleave with; None if nothing is known."""
        ...
