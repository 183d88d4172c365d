import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.plain_attention import attend_plainly
from worker.attention.encode import build_encode_attention


def random_heads(num_tokens: int, heads: int, kv_heads: int, head_dim: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values as a fused projection gives them: views of one tensor."""
    generator = torch.Generator().manual_seed(num_tokens)
    fused = torch.randn(num_tokens, heads + 2 * kv_heads, head_dim, generator=generator)
    query, key, value = fused.split([heads, kv_heads, kv_heads], 1)
    return query, key, value


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    heads=st.sampled_from([(1, 1), (4, 4), (6, 2), (3, 1)]),
    causal=st.booleans(),
)
def test_inputs_see_themselves_and_no_others(lengths: list[int], heads: tuple[int, int], causal: bool) -> None:
    query, key, value = random_heads(sum(lengths), *heads)
    got = build_encode_attention(lengths, causal=causal, windows=[None])(0, query, key, value)
    parts = zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
    want = torch.cat([attend_plainly(*part, causal=causal) for part in parts])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), window=st.integers(1, 14))
def test_windows_hide_what_is_further_back_in_their_layers_alone(lengths: list[int], window: int) -> None:
    query, key, value = random_heads(sum(lengths), 6, 2)
    attend = build_encode_attention(lengths, causal=True, windows=[None, window])
    for layer, seen in enumerate((None, window)):
        parts = zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
        want = torch.cat([attend_plainly(*part, window=seen) for part in parts])
        torch.testing.assert_close(attend(layer, query, key, value), want, rtol=0, atol=1e-5)


def test_an_input_that_is_not_a_number_spoils_no_other() -> None:
    query, key, value = random_heads(9, 4, 2)
    spoiled = [tensor.clone() for tensor in (query, key, value)]
    for tensor in spoiled:
        tensor[3:6] = torch.nan
    attend = build_encode_attention([3, 3, 3], causal=False, windows=[None])
    clean, got = attend(0, query, key, value), attend(0, *spoiled)
    assert torch.equal(got[:3], clean[:3])
    assert torch.equal(got[6:], clean[6:])
    assert got[3:6].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_results_have_the_type_of_queries(dtype: torch.dtype) -> None:
    query, key, value = (tensor.to(dtype) for tensor in random_heads(7, 4, 2))
    attend = build_encode_attention([5, 2], causal=True, windows=[3], dtype=dtype)
    assert attend(0, query, key, value).dtype == dtype
