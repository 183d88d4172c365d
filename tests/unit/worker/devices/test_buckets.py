import pytest
from hypothesis import given
from hypothesis import strategies as st

from liger.domain import BatchKind
from worker.devices.buckets import MOST_TOKENS, bucket

KINDS = st.sampled_from(BatchKind)


@given(KINDS, st.integers(1, MOST_TOKENS))
def test_a_bucket_holds_its_batch_and_is_its_own_bucket(kind, num_tokens):
    padded = bucket(kind, num_tokens)
    assert padded is not None
    assert num_tokens <= padded
    assert bucket(kind, padded) == padded


@given(KINDS, st.integers(9, MOST_TOKENS))
def test_padding_costs_little(kind, num_tokens):
    assert bucket(kind, num_tokens) - num_tokens < max(8, num_tokens / 4)


@given(KINDS, st.integers(1, MOST_TOKENS - 1))
def test_larger_batches_have_no_smaller_buckets(kind, num_tokens):
    assert bucket(kind, num_tokens) <= bucket(kind, num_tokens + 1)


@given(KINDS, st.integers(MOST_TOKENS + 1, 1 << 20))
def test_large_batches_stay_as_they_are(kind, num_tokens):
    assert bucket(kind, num_tokens) is None


@pytest.mark.parametrize("kind", BatchKind)
def test_buckets_are_few(kind):
    assert len({bucket(kind, size) for size in range(1, MOST_TOKENS + 1)}) < 50
