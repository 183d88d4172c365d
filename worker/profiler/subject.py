"""What is measured: one rank's part in an epoch, with nothing else under way."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from liger.domain import BatchKind, ModelCard
from worker.attention.interface import AttentionBackend
from worker.communicator.base import Communicator
from worker.config import WorkerConfig
from worker.devices.base import Device
from worker.inputs import InputBuilder
from worker.kv_cache import KvCache
from worker.profiler.batches import BatchMaker, Inputs
from worker.profiler.identity import profile_key
from worker.profiler.plan import CPU_BUCKETS, CUDA_BUCKETS, Bounds, Buckets
from worker.rank import JoinPlan
from worker.sampling.picking import PickNoisy
from worker.sampling.sampler import Sampler
from worker.sequences import SequenceTable
from worker.shards.partition import split
from worker.shards.shard import Shard
from worker.timing.base import Stopwatch
from worker.timing.device import DeviceStopwatch
from worker.timing.host import HostStopwatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a profile is of."""

    communicator: Communicator  # of this rank's stage
    host: Communicator  # of the hosts of its ranks, for what they tell one another
    batches: BatchMaker
    bounds: Bounds  # with this rank's own number of blocks
    hidden_size: int  # of activations
    dtype: torch.dtype
    device: torch.device
    stopwatch: Stopwatch
    make_key: Callable[[tuple[str, ...]], str]  # from the hardware of all ranks of the stage
    num_slots: int = 1  # batches in flight at once, at most


def make_subject(
    config: WorkerConfig,
    card: ModelCard,
    plan: JoinPlan,
    *,
    shard: Shard,
    communicator: Communicator,
    cache: KvCache | None,
    dtype: torch.dtype,
    device: Device,
    attention: AttentionBackend,
    host: Communicator | None = None,
    stopwatch: Stopwatch | None = None,
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
        device: What the shard computes on; the calling thread is its launching thread.
        attention: How it attends; no other batch is in flight.
        host: With the hosts of those ranks, for tensors of the CPU; None takes `communicator`.
        stopwatch: Times its lanes; None takes one that fits the device.
    """
    watch = stopwatch or (DeviceStopwatch() if device.runs_ahead else HostStopwatch())
    inputs = _inputs(plan, shard=shard, cache=cache, dtype=dtype, device=device, attention=attention)
    return Subject(
        communicator=communicator,
        host=host or communicator,
        batches=_batch_maker(shard, communicator, cache, inputs=inputs, stopwatch=watch, pick=device.pick),
        bounds=_bounds(plan, shard, cache, communicator.world_size, CUDA_BUCKETS if device.runs_ahead else CPU_BUCKETS),
        hidden_size=shard.spec.hidden_size,
        dtype=dtype,
        device=device.torch_device,
        stopwatch=watch,
        num_slots=plan.num_slots,
        make_key=lambda hardware: profile_key(
            card, plan, communicator=communicator, hardware=hardware, tag=config.profile_tag
        ),
    )


def _batch_maker(
    shard: Shard,
    communicator: Communicator,
    cache: KvCache | None,
    *,
    inputs: Inputs,
    stopwatch: Stopwatch,
    pick: PickNoisy,
) -> BatchMaker:
    num_ranks = communicator.world_size
    vocabulary = [split(shard.spec.vocab_size, num_ranks, rank) for rank in range(num_ranks)]
    return BatchMaker(
        shard=shard,
        inputs=inputs,
        sampler=Sampler(vocabulary, communicator.rank, inputs.bring, pick) if cache else None,
        block_size=cache.block_size if cache else 1,
        num_parts=num_ranks,
        stopwatch=stopwatch,
    )


def _inputs(
    plan: JoinPlan,
    *,
    shard: Shard,
    cache: KvCache | None,
    dtype: torch.dtype,
    device: Device,
    attention: AttentionBackend,
) -> Inputs:
    """Return what gives batches their tensors."""
    table = SequenceTable(plan.num_rows, device=device.torch_device)
    builder = InputBuilder(spec=shard.spec, table=table, cache=cache, dtype=dtype, device=device, attention=attention)
    windows = _Windows(device)
    return Inputs(table=table, builder=builder, bring=device.bring, begin_run=windows.begin, end_runs=windows.end)


class _Windows:
    """Takes the place of windows, in which devices make room for what the host brings.

    Args:
        device: What runs them.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._has_room = False

    def begin(self) -> None:
        """Make room for a run in place of the run before."""
        self.end()
        self._device.begin_window()
        self._has_room = True

    def end(self) -> None:
        """Give back the room of the last run, once the device has all that was brought in it.

        Raises:
            GroupFailedError: The epoch was given up.
        """
        if self._has_room:
            self._has_room = False
            fence = self._device.end_window()
            fence.wait()
            fence.release()


def _bounds(plan: JoinPlan, shard: Shard, cache: KvCache | None, num_ranks: int, buckets: Buckets) -> Bounds:
    return Bounds(
        kinds=frozenset(BatchKind) if cache else frozenset({BatchKind.ENCODE}),
        max_length=shard.spec.max_length,
        max_batch_tokens=plan.max_batch_tokens,
        num_rows=plan.num_rows,
        num_blocks=cache.num_blocks if cache else 0,
        block_size=cache.block_size if cache else 1,
        num_ranks=num_ranks,
        draws=cache is not None and shard.layers.stop == shard.spec.num_layers,
        buckets=buckets,
    )
