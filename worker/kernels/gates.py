"""Gated activations: activation(gate) * up in one pass over what one projection gave."""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker.kernels.rows import check_rows
from worker.shards.spec import ActivationKind

_BLOCK: Final = 1024  # columns of a program: 8 a thread


def gate(hidden: Tensor, kind: ActivationKind) -> Tensor:
    """Return activation(gate) * up, [num_tokens, columns], of [num_tokens, 2 * columns], gate first."""
    check_rows(hidden)
    num_tokens, columns = hidden.shape[0], hidden.shape[1] // 2
    out = torch.empty((num_tokens, columns), dtype=hidden.dtype, device=hidden.device)
    if num_tokens:
        num_blocks = triton.cdiv(columns, _BLOCK)
        _gate[(num_tokens * num_blocks,)](
            hidden, out, columns=columns, num_blocks=num_blocks, block=_BLOCK, kind=kind.value, num_warps=4
        )
    return out


@triton.jit
def _gate(  # noqa: PLR0917 - launched by place
    hidden: tl.tensor,
    out: tl.tensor,
    columns: tl.constexpr,
    num_blocks: tl.constexpr,
    block: tl.constexpr,
    kind: tl.constexpr,
) -> None:
    row = (tl.program_id(0) // num_blocks).to(tl.int64)
    places = tl.program_id(0) % num_blocks * block + tl.arange(0, block)
    held = places < columns
    gates = hidden + row * (2 * columns) + places
    value = tl.load(gates, mask=held, other=0.0).to(tl.float32)
    up = tl.load(gates + columns, mask=held, other=0.0).to(tl.float32)
    if kind == "silu":
        value = value * tl.sigmoid(value)
    elif kind == "gelu":
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    elif kind == "gelu_tanh":  # (1 + tanh(x)) / 2 is sigmoid(2 x)
        value = value * tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
    else:
        tl.static_assert(kind == "relu")
        value = tl.maximum(value, 0.0)
    tl.store(out + row * columns + places, (value * up).to(out.dtype.element_ty), mask=held)
