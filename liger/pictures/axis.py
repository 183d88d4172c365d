"""Where the marks of an axis stand."""

import math
from collections.abc import Sequence
from itertools import pairwise


def marks(end: float, most: int) -> list[float]:
    """Return round numbers from 0 to `end`, at most so many steps of 1, 2 or 5 times a power of ten."""
    step = _round_step(end / max(1, most))
    return [number * step for number in range(int(end / step + 1e-9) + 1)]


def powers(low: float, high: float) -> list[float]:
    """Return the powers of ten that hold two positive numbers between them, at least two."""
    first = math.floor(math.log10(low) + 1e-9)
    last = max(first + 1, math.ceil(math.log10(high) - 1e-9))
    return [10.0**power for power in range(first, last + 1)]


def shown(values: Sequence[float]) -> list[str]:
    """Return numbers with as many decimals as the smallest step between them needs."""
    steps = [later - earlier for earlier, later in pairwise(values)]
    decimals = max(0, -math.floor(math.log10(min(steps)) + 1e-9)) if steps else 0
    return [f"{value:.{decimals}f}" for value in values]


def _round_step(least: float) -> float:
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
