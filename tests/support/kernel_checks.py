"""Checks of Triton's kernels against plain formulas, on random data, into poisoned memory.

Interpreted, where there is no device: TRITON_INTERPRET=1 python -m tests.support.kernel_checks float32
"""

import itertools
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor

from worker.kernels.cache import write_kv
from worker.kernels.ops import TritonOps
from worker.shards.norm import Norm
from worker.shards.rotary import Rotation
from worker.shards.spec import ActivationKind, NormKind

OPS: Final = TritonOps()
SHAPES: Final = ((1, 1), (1, 36), (3, 37), (2, 768), (5, 1000), (1, 4096), (2, 16384))  # tokens, hidden
NORMS: Final = ("none", "rms", "rms-bare", "layer", "layer-bare")
EPS: Final = 1e-5
_GUARD: Final = 3  # poisoned rows before and after what a kernel may write


class Data:
    """Fresh random tensors of one type on one device."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self._random = torch.Generator().manual_seed(torch.seed())
        self.device, self.dtype = device, dtype

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(shape, generator=self._random) * scale
        return values.to(self.device, self.dtype)

    def poison(self, *shape: int) -> Tensor:
        """Return memory between guards, all of it NaN; `check_guards` tells whether the guards still are."""
        return torch.full((shape[0] + 2 * _GUARD, *shape[1:]), torch.nan, device=self.device, dtype=self.dtype)


def inside(guarded: Tensor) -> Tensor:
    return guarded[_GUARD:-_GUARD]


def check_guards(guarded: Tensor) -> None:
    assert guarded[:_GUARD].isnan().all()
    assert guarded[-_GUARD:].isnan().all()


@contextmanager
def poisoned_allocations() -> Iterator[None]:
    """Fill whatever torch allocates without values with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _chosen(device: str, step: int, *choices: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Give all combinations where they are interpreted, and on a device, which compiles each, one of `step`."""
    return itertools.islice(itertools.product(*choices), 0, None, 1 if device == "cpu" else step)


def assert_rounded(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    """Check that values are `want` (float64) rounded to the type, give or take one step."""
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=max(torch.finfo(dtype).eps, 5e-6), atol=5e-6)


def check_sums_and_norms(device: str, dtype: torch.dtype) -> None:
    data = Data(device, dtype)
    counts = itertools.cycle((1, 2, 0, 8, 3))
    flags = itertools.cycle(itertools.product((True, False), repeat=2))
    for (num_tokens, hidden), name in _chosen(device, 3, SHAPES, NORMS):
        addends = [data(num_tokens, hidden) for _ in range(next(counts))]
        for norm_last in (False, True):
            has_bias, has_out = next(flags)
            bias = data(hidden) if has_bias else None
            _check_add_norm(
                data, data(num_tokens, hidden), addends, bias, _norm(data, name, hidden), norm_last, has_out
            )
        next(flags)


def _norm(data: Data, name: str, hidden: int) -> Norm | None:
    weight, bias = (None, None) if name.endswith("bare") else (data(hidden), data(hidden))
    if name == "none":
        return None
    if name.startswith("rms"):
        return Norm(NormKind.RMS, EPS, weight)
    return Norm(NormKind.LAYER, EPS, weight, bias)


def _check_add_norm(
    data: Data,
    start: Tensor,
    addends: list[Tensor],
    bias: Tensor | None,
    norm: Norm | None,
    norm_last: bool,
    has_out: bool,
) -> None:
    total = start.float()
    for addend in addends + ([bias] if bias is not None else []):
        total = total + addend.float()
    rounded = total.to(data.dtype)
    memory, out = data.poison(*start.shape), data.poison(*start.shape)
    residual = inside(memory).copy_(start)
    new, normed = OPS.add_norm(residual, addends, bias, norm, norm_last=norm_last, out=inside(out) if has_out else None)
    assert new.data_ptr() == residual.data_ptr()
    if has_out:
        assert normed.data_ptr() == inside(out).data_ptr()
    assert_rounded(normed, rounded.double() if norm is None else _normed(rounded.double(), norm), data.dtype)
    assert torch.equal(new, normed if norm_last else rounded)
    check_guards(memory)
    check_guards(out)


def _normed(value: Tensor, norm: Norm) -> Tensor:
    if norm.kind is NormKind.LAYER:
        value = value - value.mean(-1, keepdim=True)
    value = value / (value.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    if norm.weight is not None:
        value = value * norm.weight.double()
    return value if norm.bias is None else value + norm.bias.double()


def check_gates(device: str, dtype: torch.dtype) -> None:
    data = Data(device, dtype)
    sizes = ((1, 1), (3, 67), (2, 1024), (2, 2500))  # tokens, columns
    for kind, (num_tokens, columns) in _chosen(device, 3, ActivationKind, sizes):
        hidden = data(num_tokens, 2 * columns, scale=3.0)
        with poisoned_allocations():
            got = OPS.gate(hidden, kind)
        gate, up = hidden.double().chunk(2, -1)
        assert_rounded(got, _activated(gate, kind) * up, dtype)


def _activated(value: Tensor, kind: ActivationKind) -> Tensor:
    match kind:
        case ActivationKind.SILU:
            return value / (1 + (-value).exp())
        case ActivationKind.RELU:
            return value.clamp(min=0)
        case _:
            return F.gelu(value, approximate="tanh" if kind is ActivationKind.GELU_TANH else "none")


def check_rotations(device: str, dtype: torch.dtype) -> None:
    data = Data(device, dtype)
    heads = ((1, 1), (9, 3), (4, 1), (40, 8))  # queries, keys
    choices = ((True, True), (True, False), (False, True))
    for (num_heads, kv_heads), head_dim, choice in _chosen(device, 5, heads, (2, 8, 80, 128), choices):
        num_tokens, has_rotation, has_scale = 3, *choice
        qkv = data(num_tokens, num_heads + 2 * kv_heads, head_dim)
        turned = qkv[:, : num_heads + kv_heads]
        rotation = _rotation(data, num_tokens, head_dim) if has_rotation else None
        scale = data(num_heads + kv_heads, head_dim) if has_scale else None
        with poisoned_allocations():
            query, key = OPS.rotate(turned, num_heads, rotation, scale, EPS)
        want = _turned(turned.double(), rotation, scale)
        assert_rounded(query, want[:, :num_heads], dtype)
        assert_rounded(key, want[:, num_heads:], dtype)


def _rotation(data: Data, num_tokens: int, head_dim: int) -> Rotation:
    cosines, sines = data(num_tokens, 1, head_dim // 2), data(num_tokens, 1, head_dim // 2)
    return Rotation(torch.cat((cosines, cosines), -1), torch.cat((-sines, sines), -1))


def _turned(heads: Tensor, rotation: Rotation | None, scale: Tensor | None) -> Tensor:
    if scale is not None:
        heads = heads / (heads.square().mean(-1, keepdim=True) + EPS).sqrt() * scale.double()
    if rotation is None:
        return heads
    half = heads.shape[-1] // 2
    swapped = torch.cat((heads[..., half:], heads[..., :half]), -1)
    return heads * rotation.cosines.double() + swapped * rotation.sines.double()


def check_cache_writes(device: str, dtype: torch.dtype) -> None:
    data = Data(device, dtype)
    for kv_heads, head_dim in ((1, 1), (3, 5), (8, 128)):
        caches = [data(6, 4, kv_heads, head_dim) for _ in range(2)]
        before = [cache.clone().flatten(0, 1) for cache in caches]
        qkv = data(5, 2 + 2 * kv_heads, head_dim)
        key, value = qkv[:, 2 : 2 + kv_heads], qkv[:, 2 + kv_heads :]
        slots = [23, 0, 7, -1, 12]
        write_kv(*caches, torch.tensor(slots, device=device), key, value)
        for cache, was, new in zip(caches, before, (key, value), strict=True):
            for place, slot in enumerate(slots):
                if slot >= 0:
                    was[slot] = new[place]
            assert torch.equal(cache.flatten(0, 1), was)


def check_empty_batches(device: str, dtype: torch.dtype) -> None:
    data = Data(device, dtype)
    residual, normed = OPS.add_norm(data(0, 8), [data(0, 8)], None, _norm(data, "rms", 8))
    assert residual.shape == normed.shape == (0, 8)
    assert OPS.gate(data(0, 8), ActivationKind.SILU).shape == (0, 4)
    query, key = OPS.rotate(data(0, 3, 8), 2, _rotation(data, 0, 8), None, EPS)
    assert (query.shape, key.shape) == ((0, 2, 8), (0, 1, 8))
    write_kv(
        data(4, 2, 8), data(4, 2, 8), torch.empty(0, dtype=torch.int64, device=device), data(0, 2, 8), data(0, 2, 8)
    )


CHECKS: Final = {
    "sums-and-norms": check_sums_and_norms,
    "gates": check_gates,
    "rotations": check_rotations,
    "cache-writes": check_cache_writes,
    "empty-batches": check_empty_batches,
}

if __name__ == "__main__":
    for check in CHECKS.values():
        check("cpu", getattr(torch, sys.argv[1]))
