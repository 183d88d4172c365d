"""What clients ask: drawn from a seed, so that every phase of a round gets the same."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from bench.link.work import Call

_NUM_PROMPT_TOKENS: Final = (24, 40)  # fewest and most
_NUM_NEW_TOKENS: Final = (64, 128)
_NUM_INPUT_TOKENS: Final = (16, 64)


def generations(vocabulary: Sequence[int], seed: str) -> Iterator[Call]:
    """Draw one generation after another, without end.

    Args:
        vocabulary: Tokens to draw from, at least one.
        seed: Names the draw.
    """
    rng = random.Random(f"generations {seed}")  # noqa: S311 - a draw that can be repeated, no secret
    while True:
        ids = rng.choices(vocabulary, k=rng.randint(*_NUM_PROMPT_TOKENS))
        yield Call(token_ids=tuple(ids), num_new_tokens=rng.randint(*_NUM_NEW_TOKENS))


def embeddings(vocabulary: Sequence[int], seed: str) -> Iterator[Call]:
    """Draw one embedding after another, without end; as `generations`."""
    rng = random.Random(f"embeddings {seed}")  # noqa: S311 - likewise
    while True:
        ids = rng.choices(vocabulary, k=rng.randint(*_NUM_INPUT_TOKENS))
        yield Call(token_ids=tuple(ids), num_new_tokens=0)


def until(calls: Iterator[Call], end_s: float, now_s: Callable[[], float]) -> Iterator[Call]:
    """Give calls as long as the clock has not passed an end."""
    for call in calls:
        if now_s() >= end_s:
            return
        yield call
