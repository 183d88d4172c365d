"""What clients ask, and when: drawn from a seed, so that every strategy gets the same."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

VOCABULARY_SIZE: Final = 1024
_NUM_INPUT_TOKENS: Final = (16, 128)  # fewest and most
_NUM_NEW_TOKENS: Final = (8, 32)


class Load(StrEnum):
    """What kind of calls."""

    DISCRIMINATIVE = "discriminative"  # one embedding a call
    GENERATIVE = "generative"  # a greedy generation of a set length


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a client."""

    token_ids: tuple[int, ...]
    num_new_tokens: int  # 0 for an embedding

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model: the last one made does not."""
        return len(self.token_ids) + max(self.num_new_tokens - 1, 0)


def draw_calls(load: Load, count: int, seed: str) -> list[Call]:
    """Draw calls with lengths spread evenly over their range."""
    rng = random.Random(f"calls {load} {seed}")  # noqa: S311 - a draw that can be repeated, no secret
    return [_draw_call(load, rng) for _ in range(count)]


def draw_arrivals(rate: float, duration_s: float, seed: str) -> list[float]:
    """Draw the times of a Poisson process, in seconds from the begin.

    Args:
        rate: Mean number a second.
        duration_s: Times are below this.
        seed: Names the draw.
    """
    rng = random.Random(f"arrivals {seed}")  # noqa: S311 - likewise
    times: list[float] = []
    at_s = rng.expovariate(rate)
    while at_s < duration_s:
        times.append(at_s)
        at_s += rng.expovariate(rate)
    return times


def mean_num_tokens(calls: Sequence[Call]) -> float:
    """Return the mean number of tokens of a call."""
    return sum(call.num_tokens for call in calls) / len(calls)


def _draw_call(load: Load, rng: random.Random) -> Call:
    ids = tuple(rng.randrange(1, VOCABULARY_SIZE) for _ in range(rng.randint(*_NUM_INPUT_TOKENS)))
    return Call(token_ids=ids, num_new_tokens=rng.randint(*_NUM_NEW_TOKENS) if load is Load.GENERATIVE else 0)
