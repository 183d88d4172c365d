"""Sizes that batches are padded to on a device, so that few captured graphs fit many batches. Pure."""

from typing import Final

from liger.domain import BatchKind

MOST_TOKENS: Final = 2048  # of a padded batch; larger ones take long enough to be launched eagerly
_STEPS: Final = (
    (64, 8),
    (128, 16),
    (256, 32),
    (512, 64),
    (MOST_TOKENS, 128),
)  # up to this many tokens, multiples of this


def bucket(kind: BatchKind, num_tokens: int) -> int | None:
    """Return how many tokens a batch of a kind is padded to; None for those that stay as they are.

    Few rows of decode go by powers of two: each costs the same there, as the weights are read anyway.
    """
    if num_tokens > MOST_TOKENS:
        return None
    if num_tokens <= 8:
        return 1 << (num_tokens - 1).bit_length() if kind is BatchKind.DECODE else 8
    step = next(step for most, step in _STEPS if num_tokens <= most)
    return -(-num_tokens // step) * step
