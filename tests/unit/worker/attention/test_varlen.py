import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.worker.attention.varlen_kernel import VarlenKernel
from worker.attention.interface import AttentionBackend, AttentionShape
from worker.attention.library.varlen import VarlenAttention, suits_varlen
from worker.attention.library.writing import write_by_index
from worker.attention.reference import ReferenceAttention
from worker.kv_cache import KvCache

HEADS, KV_HEADS, HEAD_DIM, NUM_BLOCKS = 6, 2, 8, 32
SHAPES = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=4)


def stage(name: str, values: object, dtype: torch.dtype) -> Tensor:
    del name
    return torch.as_tensor(values, dtype=dtype)


def make_shape(**changes: object) -> AttentionShape:
    shape = {
        "num_heads": HEADS,
        "num_kv_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "windows": (None, 5),
        "causal": True,
        "max_length": 64,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "block_size": 4,
    }
    return AttentionShape(**(shape | changes))


def make_varlen(shape: AttentionShape, kernel: VarlenKernel) -> VarlenAttention:
    return VarlenAttention(shape, kernel=kernel, write=write_by_index, others=ReferenceAttention(shape))


def random_heads(num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    fused = torch.randn(200, HEADS + 2 * KV_HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(3))[:num_tokens]
    query, key, value = fused.split([HEADS, KV_HEADS, KV_HEADS], 1)
    return query, key, value


def random_cache(block_size: int) -> KvCache:
    cache = KvCache.allocate(
        layers=range(2),
        num_blocks=NUM_BLOCKS,
        block_size=block_size,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        has_scratch=True,
    )
    generator = torch.Generator().manual_seed(1)
    for tensor in (*cache.keys, *cache.values):
        tensor.normal_(generator=generator)
    return cache


def paged_results(
    backend: AttentionBackend, shapes: list[tuple[int, int]], padded: int | None
) -> tuple[list[Tensor], KvCache]:
    """Attend in both layers; returns what real tokens got, and the cache afterwards."""
    cache, blocks = (
        random_cache(4),
        iter(torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(2)).tolist()),
    )
    tables = [[next(blocks) for _ in range(-(-(start + count) // 4))] for start, count in shapes]
    num_tokens = sum(count for _, count in shapes)
    attend = backend.paged(
        0,
        cache,
        num_tokens=[count for _, count in shapes],
        starts=[start for start, _ in shapes],
        block_tables=tables,
        stage=stage,
        padded_tokens=padded,
    )
    heads = random_heads(num_tokens if padded is None else padded)
    return [attend(layer, *heads)[:num_tokens] for layer in range(2)], cache


def assert_alike(ours: list[Tensor], wants: list[Tensor]) -> None:
    for got, want in zip(ours, wants, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), padding=st.none() | st.integers(0, 40))
def test_inputs_attend_as_in_the_reference(lengths: list[int], padding: int | None) -> None:
    padded = None if padding is None else sum(lengths) + padding
    num_tokens = sum(lengths)
    for changes in ({}, {"causal": False, "windows": (None, None)}, {"causal": False}):
        shape = make_shape(**changes)
        heads = random_heads(num_tokens if padded is None else padded)
        results = []
        for backend in (make_varlen(shape, VarlenKernel()), ReferenceAttention(shape)):
            attend = backend.encode(0, lengths, stage=stage, padded_tokens=padded)
            results.append([attend(layer, *heads) for layer in range(2)])
        assert all(result.isfinite().all() for result in results[0])
        assert_alike(*([result[:num_tokens] for result in each] for each in results))


@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES, padding=st.none() | st.integers(0, 20), block_size=st.sampled_from([4, 16]))
def test_sequences_attend_as_in_the_reference(
    shapes: list[tuple[int, int]], padding: int | None, block_size: int
) -> None:
    padded = None if padding is None else sum(count for _, count in shapes) + padding
    shape, kernel = make_shape(), VarlenKernel(block_size)  # that reads the cache's blocks, or does not
    got, mine = paged_results(make_varlen(shape, kernel), shapes, padded)
    want, theirs = paged_results(ReferenceAttention(shape), shapes, None)
    assert_alike(got, want)
    for one, other in zip((*mine.keys, *mine.values), (*theirs.keys, *theirs.values), strict=True):
        assert torch.equal(one[:NUM_BLOCKS], other[:NUM_BLOCKS])


@settings(max_examples=20, deadline=None)
@given(shapes=SHAPES, padding=st.integers(0, 20))
def test_the_reference_pads_without_touching_other_blocks(shapes: list[tuple[int, int]], padding: int) -> None:
    shape, num_tokens = make_shape(), sum(count for _, count in shapes)
    got, mine = paged_results(ReferenceAttention(shape), shapes, num_tokens + padding)
    want, theirs = paged_results(ReferenceAttention(shape), shapes, None)
    assert_alike(got, want)
    for one, other in zip((*mine.keys, *mine.values), (*theirs.keys, *theirs.values), strict=True):
        assert torch.equal(one[:NUM_BLOCKS], other[:NUM_BLOCKS])


def test_what_a_launch_holds_fixed_is_the_bucket() -> None:
    kernel, cache = VarlenKernel(4), random_cache(4)
    backend, buckets, told = make_varlen(make_shape(), kernel), [], []
    for starts in ([3, 9, 20], [30, 1, 2]):
        attend = backend.paged(
            0,
            cache,
            num_tokens=[1, 1, 1],
            starts=starts,
            block_tables=[list(range(8))] * 3,
            stage=stage,
            padded_tokens=8,
        )
        kernel.told.clear()
        attend(0, *random_heads(8))
        buckets.append(attend.bucket)
        told.append(kernel.told[0])
    assert buckets[0] == buckets[1] is not None
    assert told[0] == told[1] == (8, 1, 64)


def test_batches_without_padding_are_in_no_bucket() -> None:
    backend = make_varlen(make_shape(), VarlenKernel(4))
    assert backend.encode(0, [3, 4], stage=stage).bucket is None
    assert backend.encode(0, [3, 4], stage=stage, padded_tokens=8).bucket is not None


def test_heads_that_no_kernel_takes_are_told() -> None:
    assert suits_varlen(VarlenKernel(), make_shape())
    assert not suits_varlen(VarlenKernel(), make_shape(head_dim=12))
    assert not suits_varlen(VarlenKernel(), make_shape(head_dim=264))
    assert not suits_varlen(lambda query, key, value, is_causal: query, make_shape())
