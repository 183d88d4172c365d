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


def noise_key(seed: int, sample: int, position: int) -> int:
    """Return the 64-bit key of one draw."""
    return _mix(_mix(_mix(seed & _MASK) + sample * _GAMMA) + position * _GAMMA)


def gumbel_noise(keys: list[int], ids: Tensor) -> Tensor:
    """Return standard Gumbel noise.

    Args:
        keys: One a row, of `noise_key`.
        ids: Global vocabulary ids, [n] int64.

    Returns:
        [rows, n] float32, on the device of `ids`.
    """
    key = torch.tensor([_signed(key) for key in keys], dtype=torch.int64, device=ids.device).unsqueeze(-1)
    mixed = _mix_tensor(key + ids * _signed(_GAMMA))
    uniform = (_shift(mixed, 11).to(torch.float64) + 0.5) * 2.0**-53  # in (0, 1)
    return (-torch.log(-torch.log(uniform))).to(torch.float32)


def _mix(value: int) -> int:
    value = (value + _GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def _mix_tensor(value: Tensor) -> Tensor:
    value = value + _signed(_GAMMA)  # int64 arithmetic wraps, as the mixing wants
    value = (value ^ _shift(value, 30)) * _signed(_FIRST)
    value = (value ^ _shift(value, 27)) * _signed(_SECOND)
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value
