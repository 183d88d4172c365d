"""Draws of a vocabulary shard: logits over temperature plus Gumbel noise, and the largest of them, in one pass.

Mixes as `worker.sampling.noise` does, number by number, and computes in the same precisions: the integers are the same,
the noise may differ in the last bit of a logarithm.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker.kernels.rows import check_rows

_BLOCK: Final = 1024  # columns of a program
_GAMMA: Final = tl.constexpr(0x9E3779B97F4A7C15)
_FIRST: Final = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND: Final = tl.constexpr(0x94D049BB133111EB)
_NO_PLACE: Final = tl.constexpr((1 << 31) - 1)


def pick_noisy(logits: Tensor, temperatures: Tensor, keys: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Pick from logits over temperature with Gumbel noise. A `PickNoisy`.

    Args:
        logits: [rows, n] float32, of consecutive ids.
        temperatures: [rows] float32.
        keys: [rows] int64, of `noise_key`.
        first: The id of the first column.

    Returns:
        Of each row the largest sum, float32, and its place, int64, the first of equals; both [rows, 1].
    """
    check_rows(logits)
    (rows, width), device = logits.shape, logits.device
    num_blocks = triton.cdiv(width, _BLOCK)
    sums = torch.empty((rows, num_blocks), dtype=torch.float32, device=device)
    columns = torch.empty((rows, num_blocks), dtype=torch.int32, device=device)
    values = torch.empty((rows, 1), dtype=torch.float32, device=device)
    places = torch.empty((rows, 1), dtype=torch.int64, device=device)
    if rows:
        _pick_of_blocks[(rows, num_blocks)](
            logits, temperatures, keys, sums, columns, first, width=width, block=_BLOCK, num_warps=4
        )
        size = triton.next_power_of_2(num_blocks)
        _pick_of_rows[(rows,)](sums, columns, values, places, num_blocks=num_blocks, size=size, num_warps=1)
    return values, places


# one variant for each width: what lies in the middle of other memory is not aligned alike in all batches
@triton.jit(do_not_specialize=["first"], do_not_specialize_on_alignment=["temperatures", "keys"])
def _pick_of_blocks(  # noqa: PLR0917 - launched by place
    logits: tl.tensor,
    temperatures: tl.tensor,
    keys: tl.tensor,
    sums: tl.tensor,
    columns: tl.tensor,
    first: tl.tensor,
    width: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row, number = tl.program_id(0).to(tl.int64), tl.program_id(1)
    places = number * block + tl.arange(0, block)
    held = places < width
    logit = tl.load(logits + row * width + places, mask=held, other=0.0)
    key = tl.load(keys + row).to(tl.uint64, bitcast=True)
    noise = _gumbel(key, (places + first).to(tl.uint64))
    total = tl.div_rn(logit, tl.load(temperatures + row)) + noise
    best, place = _first_largest(tl.where(held, total, float("-inf")), places, held)
    out = row * tl.num_programs(1) + number
    tl.store(sums + out, best)
    tl.store(columns + out, place)


@triton.jit
def _pick_of_rows(  # noqa: PLR0917 - launched by place
    sums: tl.tensor,
    columns: tl.tensor,
    values: tl.tensor,
    places: tl.tensor,
    num_blocks: tl.constexpr,
    size: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    numbers = tl.arange(0, size)
    held = numbers < num_blocks
    total = tl.load(sums + row * num_blocks + numbers, mask=held, other=float("-inf"))
    column = tl.load(columns + row * num_blocks + numbers, mask=held, other=0)
    best, place = _first_largest(total, column, held)
    tl.store(values + row, best)
    tl.store(places + row, place.to(tl.int64))


@triton.jit
def _first_largest(values: tl.tensor, places: tl.tensor, held: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return the largest of a block and the lowest of its places; as argmax has it, what is no number comes first."""
    is_wrong = values != values  # noqa: PLR0124 - true of NaN alone
    any_wrong = tl.max(is_wrong.to(tl.int32), 0) > 0
    best = tl.max(tl.where(is_wrong, float("-inf"), values), 0)
    is_best = tl.where(any_wrong, is_wrong, values == best)
    place = tl.min(tl.where(is_best & held, places, _NO_PLACE), 0)
    return tl.where(any_wrong, float("nan"), best), place


@triton.jit
def _gumbel(key: tl.tensor, ids: tl.tensor) -> tl.tensor:
    """Return `gumbel_noise` of a key and ids, both uint64."""
    mixed = ids * _GAMMA + key + _GAMMA
    mixed = mixed ^ (mixed >> 30)
    mixed = mixed * _FIRST
    mixed = mixed ^ (mixed >> 27)
    mixed = mixed * _SECOND
    mixed = mixed ^ (mixed >> 31)
    bits = (mixed >> 11).to(tl.int64).to(tl.float64)  # of 53 bits
    uniform = (bits + 0.5) * 1.1102230246251565e-16
    uniform = tl.where(uniform < 1.0, uniform, bits * 1.1102230246251565e-16)  # the largest alone is rounded to 1
    return (-tl.log(-tl.log(uniform))).to(tl.float32)
