"""Counter-based noise: the same draws in any batch, on any number of ranks, after any replay.

A number is keyed by (request seed, sample index, position, global vocabulary id) and mixed by splitmix64's finaliser
(Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
"""

from typing import Final

import torch
from torch import Tensor

_MASK: Final = (1 << 64) - 1
_GAMMA: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB
_BELOW_ONE: Final = 1 - 2.0**-53
_NUMBERS_AT_ONCE: Final = 1 << 22  # on a device with memory of its own


def noise_key(seed: int, sample: int, position: int) -> int:
    """Return the 64-bit key of one draw, as a signed number."""
    return _signed(_mix(_mix(_mix(seed & _MASK) + sample * _GAMMA) + position * _GAMMA))


def gumbel_noise(keys: Tensor, ids: Tensor) -> Tensor:
    """Return standard Gumbel noise.

    Args:
        keys: [rows] int64, of `noise_key`.
        ids: Global vocabulary ids, [n] int64 of all rows, or [rows, n] int64 of each.

    Returns:
        [rows, n] float32, on the device of `ids`.
    """
    size = ids.shape[-1]
    noise = torch.empty(len(keys), size, dtype=torch.float32, device=ids.device)
    scaled = (ids * _signed(_GAMMA)).expand(len(keys), size)
    at_once = 1 if noise.is_cpu else max(1, _NUMBERS_AT_ONCE // max(1, size))  # a row at a time stays in the cache
    for first in range(0, len(keys), at_once):
        rows = slice(first, first + at_once)
        mixed = _mix_tensor(scaled[rows] + keys[rows].unsqueeze(-1))
        uniform = _shift(mixed, 11).to(torch.float64).add_(0.5).mul_(2.0**-53)  # in (0, 1]
        uniform.clamp_(max=_BELOW_ONE)  # the largest number of 53 bits, and a half, is rounded to 1: infinite noise
        noise[rows] = uniform.log_().neg_().log_().neg_()
    return noise


def _mix(value: int) -> int:
    value = (value + _GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def _mix_tensor(value: Tensor) -> Tensor:
    """Mix in place; int64 arithmetic wraps, as the mixing wants."""
    value += _signed(_GAMMA)
    value ^= _shift(value, 30)
    value *= _signed(_FIRST)
    value ^= _shift(value, 27)
    value *= _signed(_SECOND)
    value ^= _shift(value, 31)
    return value


def _shift(value: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (value >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value
