"""Rotary positions: frequencies by kind of scaling, and the rotation of a batch, computed once for all layers."""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from worker.shards.spec import RopeKind, RopeSpec


@dataclass(frozen=True, slots=True)
class Rotation:
    """How far each token of a batch turns its heads; both halves of a head turn alike."""

    cosines: Tensor  # [num_tokens, 1, head_dim]
    sines: Tensor  # [num_tokens, 1, head_dim], the first half negative

    def __call__(self, heads: Tensor) -> Tensor:
        """Turn [num_tokens, heads, head_dim]; dimension i pairs with i + head_dim / 2."""
        swapped = heads.roll(heads.shape[-1] // 2, -1)
        return torch.addcmul(heads * self.cosines, swapped, self.sines)

    def first(self, num_tokens: int) -> "Rotation":
        """Return that of the first tokens, in the same memory."""
        return Rotation(self.cosines[:num_tokens], self.sines[:num_tokens])

    def copy_(self, other: "Rotation") -> "Rotation":
        """Become another of as many tokens, in this one's memory."""
        self.cosines.copy_(other.cosines)
        self.sines.copy_(other.sines)
        return self


@dataclass(frozen=True, slots=True)
class Rotary:
    """A model's rotary positions."""

    frequencies: Tensor  # [head_dim / 2], radians a token, float32
    scale: float
    dtype: torch.dtype

    def rotation(self, positions: Tensor) -> Rotation:
        """Return the rotation of tokens at `positions` [num_tokens]."""
        angles = positions.unsqueeze(-1).to(torch.float32) * self.frequencies
        cosines, sines = angles.cos(), angles.sin()
        whole_cosines = torch.cat((cosines, cosines), -1).mul_(self.scale)
        whole_sines = torch.cat((-sines, sines), -1).mul_(self.scale)
        return Rotation(whole_cosines.to(self.dtype).unsqueeze(1), whole_sines.to(self.dtype).unsqueeze(1))

    def allocate(self, num_tokens: int) -> Rotation:
        """Return memory for the rotation of so many tokens, without values."""
        shape = (num_tokens, 1, 2 * len(self.frequencies))
        return Rotation(
            torch.empty(shape, dtype=self.dtype, device=self.frequencies.device),
            torch.empty(shape, dtype=self.dtype, device=self.frequencies.device),
        )


def build_rotary(spec: RopeSpec, head_dim: int, dtype: torch.dtype, device: torch.device | str) -> Rotary:
    """Compute a model's frequencies; those of rotary positions are kept in float32 whatever the model's dtype."""
    frequencies = _SCALINGS[spec.kind](spec, _base_frequencies(spec, head_dim))
    return Rotary(frequencies.to(device), spec.attention_factor, dtype)


def _base_frequencies(spec: RopeSpec, head_dim: int) -> Tensor:
    return 1.0 / spec.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def _unscaled(_: RopeSpec, frequencies: Tensor) -> Tensor:
    return frequencies


def _linear(spec: RopeSpec, frequencies: Tensor) -> Tensor:
    return frequencies / spec.factor


def _llama3(spec: RopeSpec, frequencies: Tensor) -> Tensor:
    """Slow waves are stretched by the factor, fast ones kept, those between blended (Llama 3.1)."""
    turns = spec.original_max_length * frequencies / (2 * math.pi)  # turns within the first training's length
    kept = (turns - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor)
    return torch.lerp(frequencies / spec.factor, frequencies, kept.clamp(0.0, 1.0))


def _yarn(spec: RopeSpec, frequencies: Tensor) -> Tensor:
    """Dimensions that turn often are kept, those that turn seldom stretched, a ramp between (YaRN, section 3.2)."""
    half = len(frequencies)

    def dimension(turns: float) -> float:
        return half * math.log(spec.original_max_length / (turns * 2 * math.pi)) / math.log(spec.theta)

    low, high = dimension(spec.beta_fast), dimension(spec.beta_slow)
    if spec.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    ramp = (torch.arange(half, dtype=torch.float32) - low) / max(high - low, 0.001)
    return torch.lerp(frequencies, frequencies / spec.factor, ramp.clamp(0.0, 1.0))


_SCALINGS: Final = {
    RopeKind.DEFAULT: _unscaled,
    RopeKind.LINEAR: _linear,
    RopeKind.LLAMA3: _llama3,
    RopeKind.YARN: _yarn,
}
