from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.worker.attention.paged_wrapper import PagedWrapper
from tests.unit.worker.attention.test_varlen import (
    NUM_BLOCKS,
    SHAPES,
    assert_alike,
    make_shape,
    make_varlen,
    paged_results,
    random_cache,
    random_heads,
    stage,
)
from tests.unit.worker.attention.varlen_kernel import VarlenKernel
from worker.attention.library import plans
from worker.attention.library.flashinfer import FlashInferAttention, suits_flashinfer
from worker.attention.library.plans import Workspace
from worker.attention.library.writing import write_by_index
from worker.attention.reference import ReferenceAttention

SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class HostRing:
    """Memory that is not pinned."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        self._num_bytes = num_bytes

    @contextmanager
    def take(self) -> Iterator[Tensor]:
        yield torch.empty(self._num_bytes, dtype=torch.uint8)


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch) -> FlashInferAttention:
    monkeypatch.setattr(plans, "_PinnedRing", HostRing)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132))
    shape = make_shape()
    others = make_varlen(shape, VarlenKernel())
    return FlashInferAttention(shape, make_wrapper=PagedWrapper, write=write_by_index, others=others)


@SETTINGS
@given(shapes=SHAPES, padding=st.none() | st.integers(0, 20))
def test_sequences_attend_as_in_the_reference(
    attention: FlashInferAttention, shapes: list[tuple[int, int]], padding: int | None
) -> None:
    padded = None if padding is None else sum(count for _, count in shapes) + padding
    got, mine = paged_results(attention, shapes, padded)
    want, theirs = paged_results(ReferenceAttention(make_shape()), shapes, None)
    assert_alike(got, want)
    for one, other in zip((*mine.keys, *mine.values), (*theirs.keys, *theirs.values), strict=True):
        assert torch.equal(one[:NUM_BLOCKS], other[:NUM_BLOCKS])


def test_a_bucket_of_a_slot_has_a_wrapper_for_each_window_and_no_more(attention: FlashInferAttention) -> None:
    before, buckets = PagedWrapper.made, set()
    for slot in (0, 1):
        for starts in ([3, 9], [30, 1], [7, 7]):
            attend = attention.paged(
                slot,
                random_cache(4),
                num_tokens=[1, 1],
                starts=starts,
                block_tables=[list(range(8))] * 2,
                stage=stage,
                padded_tokens=4,
            )
            buckets.add(attend.bucket)
    assert PagedWrapper.made - before == 2 * 2
    assert len(buckets) == 1
    assert None not in buckets


def test_batches_of_two_slots_do_not_share_their_plans(attention: FlashInferAttention) -> None:
    cache, heads, results = random_cache(4), random_heads(3), []
    for slots in ((0, 1), (0, 0)):
        attends = [
            attention.paged(slot, cache, num_tokens=[3], starts=[start], block_tables=[list(range(8))], stage=stage)
            for slot, start in zip(slots, (4, 20), strict=True)
        ]
        results.append([attend(0, *heads) for attend in attends])
    assert not torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_kernels_are_tried_before_they_serve(attention: FlashInferAttention) -> None:
    attention.warm()


def test_kernels_that_give_something_else_are_refused(
    attention: FlashInferAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PagedWrapper, "run", lambda self, query, caches, out: out.zero_())
    with pytest.raises(RuntimeError, match="do not attend"):
        attention.warm()


def test_buckets_too_large_for_the_workspace_are_launched_eagerly(attention: FlashInferAttention) -> None:
    workspace = Workspace(make_shape(num_heads=32, num_kv_heads=8, head_dim=128), 132)
    assert workspace.holds(256, 256)
    assert workspace.holds(2048, 16)
    assert not workspace.holds(4096, 4096)
    assert workspace.plan_bytes(256, 256) < 1 << 20


@pytest.mark.parametrize(("changes", "suits"), [({"head_dim": 128}, True), ({}, False), ({"head_dim": 80}, False)])
def test_heads_that_it_has_kernels_for_are_told(changes: dict, suits: bool) -> None:
    assert suits_flashinfer(make_shape(**changes)) is suits


def test_a_model_without_a_cache_does_not_suit() -> None:
    assert not suits_flashinfer(make_shape(head_dim=128, block_size=None))
