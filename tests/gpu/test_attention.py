"""Library attention on the GPU against the reference in float32 on the same values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from worker.attention.choice import choose_attention
from worker.attention.interface import AttentionBackend, AttentionShape
from worker.attention.library.flashinfer import FlashInferAttention
from worker.attention.reference import ReferenceAttention
from worker.kv_cache import KvCache

BLOCK_SIZE, NUM_BLOCKS, MAX_LENGTH = 16, 600, 4096
WINDOWS = (None, 100)  # of two layers


class FixedStage:
    """Keeps each name's tensor at one address, as a slot's arena does."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, values: Sequence[int] | Tensor, dtype: torch.dtype) -> Tensor:
        host = torch.as_tensor(values, dtype=dtype)
        if name not in self._buffers:
            self._buffers[name] = torch.zeros(1 << 16, dtype=dtype, device="cuda")
        held = self._buffers[name][: host.numel()].view(host.shape)
        held.copy_(host.pin_memory(), non_blocking=True)
        return held


@dataclass(frozen=True)
class Batch:
    """Sequences, each with tokens cached before and new ones."""

    starts: list[int]
    counts: list[int]
    tables: list[list[int]]

    @property
    def num_tokens(self) -> int:
        return sum(self.counts)


def make_batch(random: Random, shapes: Sequence[tuple[int, int]]) -> Batch:
    blocks = random.sample(range(NUM_BLOCKS), NUM_BLOCKS)
    tables = [[blocks.pop() for _ in range(-(-(start + count) // BLOCK_SIZE))] for start, count in shapes]
    return Batch([start for start, _ in shapes], [count for _, count in shapes], tables)


def batch_of(random: Random, kind: str) -> Batch:
    sizes = [random.randint(1, 700) for _ in range(random.randint(1, 6))]
    match kind:
        case "fresh":
            return make_batch(random, [(0, size) for size in sizes])
        case "decode":
            return make_batch(random, [(random.randint(1, 900), 1) for _ in range(random.randint(1, 9))])
        case "chunks":
            return make_batch(random, [(random.randint(1, 700), size) for size in sizes])
        case _:
            return make_batch(random, [(random.choice([0, 1, 333]), random.choice([1, 2, 400])) for _ in sizes])


@pytest.fixture(params=[(128, 8, 2), (64, 4, 4), (64, 9, 3), (128, 8, 1)], ids=lambda heads: "x".join(map(str, heads)))
def shape(request: pytest.FixtureRequest) -> AttentionShape:
    head_dim, heads, kv_heads = request.param
    return AttentionShape(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        windows=WINDOWS,
        causal=True,
        max_length=MAX_LENGTH,
        dtype=torch.bfloat16,
        device=torch.device("cuda"),
        block_size=BLOCK_SIZE,
    )


def random_heads(shape: AttentionShape, num_tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values as a fused projection gives them: views of one tensor."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    heads, kv_heads = shape.num_heads, shape.num_kv_heads
    size = (num_tokens, heads + 2 * kv_heads, shape.head_dim)
    fused = torch.randn(size, generator=generator, device="cuda").to(shape.dtype)
    query, key, value = fused.split([heads, kv_heads, kv_heads], 1)
    return query, key, value


def random_cache(shape: AttentionShape) -> KvCache:
    cache = KvCache.allocate(
        layers=range(len(WINDOWS)),
        num_blocks=NUM_BLOCKS,
        block_size=BLOCK_SIZE,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        dtype=shape.dtype,
        device="cuda",
        has_scratch=True,
    )
    generator = torch.Generator(device="cuda").manual_seed(5)
    for tensor in (*cache.keys, *cache.values):
        tensor.normal_(generator=generator)
    return cache


def in_float32(cache: KvCache) -> KvCache:
    keys, values = (tuple(tensor.float() for tensor in tensors) for tensors in (cache.keys, cache.values))
    return replace(cache, keys=keys, values=values)


def want_paged(shape: AttentionShape, cache: KvCache, batch: Batch, heads: tuple[Tensor, ...]) -> list[Tensor]:
    """Return what the reference gives in both layers."""
    reference, exact = ReferenceAttention(replace(shape, dtype=torch.float32)), in_float32(cache)
    attend = reference.paged(
        0, exact, num_tokens=batch.counts, starts=batch.starts, block_tables=batch.tables, stage=FixedStage()
    )
    return [attend(layer, *(head[: batch.num_tokens].float() for head in heads)) for layer in range(len(WINDOWS))]


def assert_near(got: Tensor, want: Tensor) -> None:
    assert got[: len(want)].isfinite().all()
    error = (got[: len(want)].float() - want).norm() / want.norm()
    assert error < 2e-2, f"relative error {error:.4f}"


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padding", [None, 0, 777])
def test_inputs_attend_as_in_the_reference(shape: AttentionShape, causal: bool, padding: int | None) -> None:
    shape = replace(shape, causal=causal, windows=WINDOWS if causal else (None, None))
    random, backend = Random(1), choose_attention(shape)
    for _ in range(5):
        lengths = [random.randint(1, 700) for _ in range(random.randint(1, 6))]
        num_tokens = sum(lengths)
        padded = None if padding is None else num_tokens + padding
        heads = random_heads(shape, padded or num_tokens)
        attend = backend.encode(0, lengths, stage=FixedStage(), padded_tokens=padded)
        exact = ReferenceAttention(replace(shape, dtype=torch.float32)).encode(0, lengths, stage=FixedStage())
        for layer in range(len(WINDOWS)):
            assert_near(attend(layer, *heads), exact(layer, *(head[:num_tokens].float() for head in heads)))


@pytest.mark.parametrize("kind", ["fresh", "decode", "chunks", "mixed"])
@pytest.mark.parametrize("padding", [None, 0, 37])
def test_sequences_attend_as_in_the_reference(shape: AttentionShape, kind: str, padding: int | None) -> None:
    random, backend, stage = Random(2), choose_attention(shape), FixedStage()
    for _ in range(5):
        batch, cache = batch_of(random, kind), random_cache(shape)
        padded = None if padding is None else batch.num_tokens + padding
        heads = random_heads(shape, padded or batch.num_tokens)
        want = want_paged(shape, cache, batch, heads)
        before = [tensor[:-1].clone() for tensor in (*cache.keys, *cache.values)]
        attend = paged(backend, cache, batch, stage, padded)
        for layer, exact in enumerate(want):
            assert_near(attend(layer, *heads), exact)
        assert_written(cache, before, batch, heads)


def paged(backend: AttentionBackend, cache: KvCache, batch: Batch, stage: FixedStage, padded: int | None) -> Any:
    return backend.paged(
        1,
        cache,
        num_tokens=batch.counts,
        starts=batch.starts,
        block_tables=batch.tables,
        stage=stage,
        padded_tokens=padded,
    )


def assert_written(cache: KvCache, before: list[Tensor], batch: Batch, heads: tuple[Tensor, ...]) -> None:
    """Check that new keys and values are in their places, byte for byte, and nothing else changed but the scratch."""
    _, key, value = heads
    ends = [0]
    for count in batch.counts:
        ends.append(ends[-1] + count)
    half = len(before) // 2
    for place, (tensor, old) in enumerate(zip((*cache.keys, *cache.values), before, strict=True)):
        new = key if place < half else value
        for (first, last), start, table in zip(pairwise(ends), batch.starts, batch.tables, strict=True):
            positions = torch.arange(start, start + last - first, device="cuda")
            blocks = torch.tensor(table, device="cuda")[positions // BLOCK_SIZE]
            old[blocks, positions % BLOCK_SIZE] = new[first:last]
        assert torch.equal(tensor[:-1], old)


def graph_of(launch: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Capture a launch, after one that loads what it needs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        launch()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = launch()
    return graph, out


@pytest.mark.parametrize("kind", ["decode", "chunks", "fresh"])
def test_a_graph_serves_every_batch_of_its_bucket(shape: AttentionShape, kind: str) -> None:
    random, backend, stage = Random(3), choose_attention(shape), FixedStage()
    padded = 16 if kind == "decode" else 1024
    cache, heads = random_cache(shape), random_heads(shape, padded)
    graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor]]] = {}
    captured = replayed = 0
    for turn in range(12):
        batch = bounded(random, kind)
        for buffer, fresh in zip(heads, random_heads(shape, padded, turn), strict=True):
            buffer.copy_(fresh)
        want = want_paged(shape, cache, batch, heads)
        attend = paged(backend, cache, batch, stage, padded)
        if attend.bucket is None:
            assert not isinstance(backend, FlashInferAttention), "its batches are capturable up to a size"
            pytest.skip("over a cache only FlashInfer or torch 2.12 can be captured, and here is neither")
        if attend.bucket in graphs:
            graph, outs = graphs[attend.bucket]
            replayed += 1
        else:
            graph, outs = capture_layers(attend, heads)
            graphs[attend.bucket] = graph, outs
            captured += 1
        graph.replay()
        for got, exact in zip(outs, want, strict=True):
            assert_near(got, exact)
    assert replayed > captured


def capture_layers(attend: Any, heads: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    outs: list[Tensor] = []

    def launch() -> Tensor:
        outs[:] = [attend(layer, *heads) for layer in range(len(WINDOWS))]
        return outs[0]

    graph, _ = graph_of(launch)
    return graph, outs


def bounded(random: Random, kind: str) -> Batch:
    """Return one of a few batches whose buckets are alike."""
    if kind == "decode":
        return make_batch(random, [(random.randint(1, 500), 1) for _ in range(random.randint(9, 16))])
    start = 0 if kind == "fresh" else random.randint(1, 700)
    return make_batch(random, [(start, random.randint(257, 340)) for _ in range(3)])


def test_plans_of_batches_under_way_are_not_overwritten(shape: AttentionShape) -> None:
    """The host runs ahead: it plans many batches while the device is busy with something long."""
    random, backend = Random(4), choose_attention(shape)
    batches = [bounded(random, "decode") for _ in range(9)]
    caches, stages = [random_cache(shape) for _ in batches], [FixedStage() for _ in batches]
    heads = random_heads(shape, 16)
    wants = [want_paged(shape, cache, batch, heads) for cache, batch in zip(caches, batches, strict=True)]
    for cache, batch, stage in zip(caches, batches, stages, strict=True):
        paged(backend, cache, batch, stage, 16)  # allocates, so that nothing below waits
    torch.cuda.synchronize()
    torch.cuda._sleep(100_000_000)
    outs = []
    for cache, batch, stage in zip(caches, batches, stages, strict=True):
        attend = paged(backend, cache, batch, stage, 16)
        outs.append([attend(layer, *heads) for layer in range(len(WINDOWS))])
    for got, want in zip(outs, wants, strict=True):
        for one, exact in zip(got, want, strict=True):
            assert_near(one, exact)
