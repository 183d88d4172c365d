"""What is measured: one rank's part in an epoch, with nothing else under way."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from liger.domain import BatchKind, ModelCard
from worker.communicator.base import Communicator
from worker.config import WorkerConfig
from worker.kv_cache import KvCache
from worker.profiler.batches import BatchMaker
from worker.profiler.identity import profile_key
from worker.profiler.plan import Bounds
from worker.rank import JoinPlan
from worker.sampling.sampler import Sampler
from worker.shards.partition import split
from worker.shards.shard import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a profile is of."""

    communicator: Communicator  # of this rank's stage
    batches: BatchMaker
    bounds: Bounds  # with this rank's own number of blocks
    hidden_size: int  # of activations
    dtype: torch.dtype
    make_key: Callable[[tuple[str, ...]], str]  # from the hardware of all ranks of the stage


def make_subject(
    config: WorkerConfig,
    card: ModelCard,
    plan: JoinPlan,
    *,
    shard: Shard,
    communicator: Communicator,
    cache: KvCache | None,
    dtype: torch.dtype,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Subject:
    """Return what a rank's profile is of.

    Args:
        config: The worker's.
        card: The model.
        plan: The epoch's.
        shard: What this rank holds of the model.
        communicator: With the ranks of its stage.
        cache: Keys and values, which no sequence uses yet; None for models that keep none.
        dtype: Of activations.
        clock_ns: Monotonic nanoseconds.
    """
    return Subject(
        communicator=communicator,
        batches=_batch_maker(plan, shard=shard, communicator=communicator, cache=cache, dtype=dtype, clock_ns=clock_ns),
        bounds=_bounds(plan, shard, cache, communicator.world_size),
        hidden_size=shard.spec.hidden_size,
        dtype=dtype,
        make_key=lambda hardware: profile_key(
            card, plan, communicator=communicator, hardware=hardware, tag=config.profile_tag
        ),
    )


def _batch_maker(
    plan: JoinPlan,
    *,
    shard: Shard,
    communicator: Communicator,
    cache: KvCache | None,
    dtype: torch.dtype,
    clock_ns: Callable[[], int],
) -> BatchMaker:
    num_ranks = communicator.world_size
    vocabulary = [split(shard.spec.vocab_size, num_ranks, rank) for rank in range(num_ranks)]
    return BatchMaker(
        shard=shard,
        cache=cache,
        sampler=Sampler(vocabulary, communicator.rank) if cache else None,
        num_rows=plan.num_rows,
        num_parts=num_ranks,
        dtype=dtype,
        clock_ns=clock_ns,
    )


def _bounds(plan: JoinPlan, shard: Shard, cache: KvCache | None, num_ranks: int) -> Bounds:
    return Bounds(
        kinds=frozenset(BatchKind) if cache else frozenset({BatchKind.ENCODE}),
        max_length=shard.spec.max_length,
        max_batch_tokens=plan.max_batch_tokens,
        num_rows=plan.num_rows,
        num_blocks=cache.num_blocks if cache else 0,
        block_size=cache.block_size if cache else 1,
        num_ranks=num_ranks,
        draws=cache is not None and shard.layers.stop == shard.spec.num_layers,
    )
