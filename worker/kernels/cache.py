"""New keys and values to their slots of the cache."""

import triton
import triton.language as tl
from torch import Tensor


def write_kv(keys_cache: Tensor, values_cache: Tensor, slot_mapping: Tensor, key: Tensor, value: Tensor) -> None:
    """Write a batch's keys and values, in one pass.

    Args:
        keys_cache: [..., kv_heads, head_dim] without gaps, so that its tokens lie slot by slot.
        values_cache: Like keys_cache.
        slot_mapping: [num_tokens] int64, the slot of each token; a token with a negative one is not written.
        key: [num_tokens, kv_heads, head_dim]; rows may lie apart.
        value: Like key.
    """
    num_tokens, kv_heads, head_dim = key.shape
    assert keys_cache.is_contiguous() and values_cache.is_contiguous(), "slots follow one another"  # noqa: PT018 - one bug
    assert keys_cache.shape[-2:] == values_cache.shape[-2:] == key.shape[1:] == value.shape[1:], "heads are alike"
    assert key.stride()[1:] == value.stride()[1:] == (head_dim, 1), "heads of a row follow one another"
    assert len(slot_mapping) == len(value) == num_tokens, "each token has its slot"
    if not num_tokens:
        return
    width = kv_heads * head_dim
    block = triton.next_power_of_2(width)
    _write_kv[(num_tokens,)](
        keys_cache,
        values_cache,
        slot_mapping,
        key,
        value,
        key.stride(0),
        value.stride(0),
        width=width,
        block=block,
        num_warps=max(1, min(8, block // 256)),
    )


@triton.jit
def _write_kv(  # noqa: PLR0917 - launched by place
    keys_cache: tl.tensor,
    values_cache: tl.tensor,
    slot_mapping: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    key_stride: tl.tensor,
    value_stride: tl.tensor,
    width: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping + row)
    columns = tl.arange(0, block)
    held = (columns < width) & (slot >= 0)
    places = slot * width + columns
    tl.store(keys_cache + places, tl.load(key + row * key_stride + columns, mask=held), mask=held)
    tl.store(values_cache + places, tl.load(value + row * value_stride + columns, mask=held), mask=held)
