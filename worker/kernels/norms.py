"""Residual + addends + bias, then the norm, in one pass over each row."""

from collections.abc import Sequence
from typing import Final

import triton
import triton.language as tl
from torch import Tensor

from worker.kernels.rows import check_rows, num_warps
from worker.shards.norm import Norm
from worker.shards.spec import NormKind

MAX_ADDENDS: Final = 8


def add_norm(
    residual: Tensor, addends: Sequence[Tensor], bias: Tensor | None, norm: Norm | None, *, norm_last: bool, out: Tensor
) -> None:
    """Add up in float32, round once, norm the rounded sum in float32.

    Args:
        residual: [num_tokens, hidden], becomes the sum, or the normed sum if `norm_last`.
        addends: Each [num_tokens, hidden], added in this order, before the bias.
        bias: [hidden].
        norm: None for the sum alone.
        norm_last: See `residual`.
        out: Where the normed sum is put; may be the residual if both are to be equal.
    """
    assert len(addends) <= MAX_ADDENDS, "copy-engine groups have at most 8 ranks"
    check_rows(residual, out, *addends)
    num_tokens, hidden = residual.shape
    if not num_tokens:
        return
    block = triton.next_power_of_2(hidden)
    _add_norm[(num_tokens,)](
        residual,
        *addends,
        *(None,) * (MAX_ADDENDS - len(addends)),
        bias,
        norm.weight if norm else None,
        norm.bias if norm else None,
        out if out.data_ptr() != residual.data_ptr() else None,
        norm.eps if norm else 0.0,
        hidden=hidden,
        block=block,
        has_norm=norm is not None,
        is_layer_norm=norm is not None and norm.kind is NormKind.LAYER,
        norm_last=norm_last,
        num_warps=num_warps(block),
    )


@triton.jit
def _add_norm(  # noqa: PLR0917 - launched by place
    residual: tl.tensor,
    addend_0: tl.tensor,
    addend_1: tl.tensor,
    addend_2: tl.tensor,
    addend_3: tl.tensor,
    addend_4: tl.tensor,
    addend_5: tl.tensor,
    addend_6: tl.tensor,
    addend_7: tl.tensor,
    bias: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    hidden: tl.constexpr,
    block: tl.constexpr,
    has_norm: tl.constexpr,
    is_layer_norm: tl.constexpr,
    norm_last: tl.constexpr,
) -> None:
    columns = tl.arange(0, block)
    held = columns < hidden
    places = tl.program_id(0).to(tl.int64) * hidden + columns
    total = tl.load(residual + places, mask=held, other=0.0).to(tl.float32)
    total = _plus(total, addend_0, places, held)
    total = _plus(total, addend_1, places, held)
    total = _plus(total, addend_2, places, held)
    total = _plus(total, addend_3, places, held)
    total = _plus(total, addend_4, places, held)
    total = _plus(total, addend_5, places, held)
    total = _plus(total, addend_6, places, held)
    total = _plus(total, addend_7, places, held)
    total = _plus(total, bias, columns, held)
    rounded = total.to(residual.dtype.element_ty)
    normed = rounded
    if has_norm:
        value = _norm_row(rounded.to(tl.float32), columns, held, norm_weight, norm_bias, eps, hidden, is_layer_norm)
        normed = value.to(residual.dtype.element_ty)
    if norm_last:
        tl.store(residual + places, normed, mask=held)
    else:
        tl.store(residual + places, rounded, mask=held)
    if out is not None:
        tl.store(out + places, normed, mask=held)


@triton.jit
def _norm_row(  # noqa: PLR0917 - called by place
    value: tl.tensor,
    columns: tl.tensor,
    held: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    eps: tl.tensor,
    hidden: tl.constexpr,
    is_layer_norm: tl.constexpr,
) -> tl.tensor:
    if is_layer_norm:
        value = tl.where(held, value - tl.sum(value, 0) / hidden, 0.0)
    value *= tl.rsqrt(tl.sum(value * value, 0) / hidden + eps)
    if norm_weight is not None:
        value *= tl.load(norm_weight + columns, mask=held, other=0.0).to(tl.float32)
    return _plus(value, norm_bias, columns, held)


@triton.jit
def _plus(total: tl.tensor, addend: tl.tensor, places: tl.tensor, held: tl.tensor) -> tl.tensor:
    if addend is not None:
        total += tl.load(addend + places, mask=held, other=0.0).to(tl.float32)
    return total
