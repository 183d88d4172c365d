"""Queries and keys, normed and turned in one pass."""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker.kernels.rows import check_rows
from worker.shards.rotary import Rotation

_BLOCK: Final = 1024  # pairs of dimensions of a program: 8 a thread


def rotate(
    turned: Tensor, num_heads: int, rotation: Rotation | None, scale: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Norm and turn in float32, see `Ops.rotate`; queries and keys come in memory of their own, without gaps."""
    num_tokens, all_heads, head_dim = turned.shape
    assert turned.stride()[1:] == (head_dim, 1), "heads of a row follow one another"
    assert head_dim % 2 == 0, "dimensions are turned in pairs"
    query = torch.empty((num_tokens, num_heads, head_dim), dtype=turned.dtype, device=turned.device)
    key = torch.empty((num_tokens, all_heads - num_heads, head_dim), dtype=turned.dtype, device=turned.device)
    if rotation is not None:
        check_rows(rotation.cosines, rotation.sines)
    if num_tokens:
        block_half = triton.next_power_of_2(head_dim // 2)
        block_heads = max(1, min(triton.next_power_of_2(all_heads), _BLOCK // block_half))
        _rotate[(num_tokens, triton.cdiv(all_heads, block_heads))](
            turned,
            turned.stride(0),
            rotation.cosines if rotation else None,
            rotation.sines if rotation else None,
            scale,
            eps,
            query,
            key,
            num_heads=num_heads,
            all_heads=all_heads,
            half=head_dim // 2,
            block_heads=block_heads,
            block_half=block_half,
            num_warps=4,
        )
    return query, key


@triton.jit
def _rotate(  # noqa: PLR0917 - launched by place
    turned: tl.tensor,
    row_stride: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    scale: tl.tensor,
    eps: tl.tensor,
    query: tl.tensor,
    key: tl.tensor,
    num_heads: tl.constexpr,
    all_heads: tl.constexpr,
    half: tl.constexpr,
    block_heads: tl.constexpr,
    block_half: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    heads = (tl.program_id(1) * block_heads + tl.arange(0, block_heads))[:, None]
    columns = tl.arange(0, block_half)[None, :]
    held = (heads < all_heads) & (columns < half)
    within = heads * (2 * half) + columns
    place = turned + row * row_stride + within
    low = tl.load(place, mask=held, other=0.0).to(tl.float32)
    high = tl.load(place + half, mask=held, other=0.0).to(tl.float32)
    if scale is not None:
        factor = tl.rsqrt(tl.sum(low * low + high * high, 1) / (2 * half) + eps)[:, None]
        low *= factor * tl.load(scale + within, mask=held, other=0.0).to(tl.float32)
        high *= factor * tl.load(scale + within + half, mask=held, other=0.0).to(tl.float32)
    if cosines is not None:  # both halves have the same; the sines of the first half are negative
        angles = row * (2 * half) + columns
        cosine = tl.load(cosines + angles, mask=columns < half, other=0.0).to(tl.float32)
        sine = tl.load(sines + angles + half, mask=columns < half, other=0.0).to(tl.float32)
        straight = low
        low = straight * cosine - high * sine
        high = high * cosine + straight * sine
    is_query = held & (heads < num_heads)
    is_key = held & (heads >= num_heads)
    query_place = query + row * (num_heads * 2 * half) + within
    key_place = key + row * ((all_heads - num_heads) * 2 * half) + within - num_heads * 2 * half
    tl.store(query_place, low.to(query.dtype.element_ty), mask=is_query)
    tl.store(query_place + half, high.to(query.dtype.element_ty), mask=is_query)
    tl.store(key_place, low.to(key.dtype.element_ty), mask=is_key)
    tl.store(key_place + half, high.to(key.dtype.element_ty), mask=is_key)
