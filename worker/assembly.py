"""Puts together what runs the windows of an epoch."""

from dataclasses import dataclass
from typing import Final

import torch

from worker.attention.interface import AttentionBackend, AttentionShape
from worker.communicator.connections import Connections
from worker.devices.base import Device
from worker.executor import Executor
from worker.graphs import GraphedLaunches
from worker.inputs import InputBuilder
from worker.kv_cache import KvCache
from worker.launching import LaunchAll, LaunchEach
from worker.memory import GIB
from worker.rank import JoinPlan
from worker.recorder import Recorder
from worker.runner import SegmentRunner
from worker.sampling.sampler import Sampler
from worker.segments import Forwards
from worker.sequences import SequenceTable
from worker.shards.partition import split
from worker.shards.shard import Shard
from worker.structured.matchers import Matchers

_MOST_GRAPHS: Final = 512
_MOST_GRAPH_BYTES: Final = 4 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a rank has in an epoch."""

    plan: JoinPlan
    forwards: Forwards  # of all stages
    shard: Shard
    cache: KvCache | None  # None for models that keep none
    connections: Connections
    attention: AttentionBackend
    matchers: Matchers | None  # None where no tokens are drawn
    device: Device
    dtype: torch.dtype  # of activations
    is_eager: bool  # whether graphs are not wanted


def build_executor(parts: Parts) -> Executor:
    """Return what runs an epoch's windows; called on the launching thread."""
    device, plan, shard = parts.device, parts.plan, parts.shard
    recorder = device.new_recorder()
    table = SequenceTable(plan.num_rows, parts.matchers, device.torch_device)
    inputs = InputBuilder(
        spec=shard.spec, table=table, cache=parts.cache, dtype=parts.dtype, device=device, attention=parts.attention
    )
    runner = SegmentRunner(
        shard=shard,
        communicator=parts.connections.stage,
        links=parts.connections.links,
        table=table,
        inputs=inputs,
        sampler=_make_sampler(parts) if parts.matchers is not None else None,
        device=device,
        recorder=recorder,
    )
    return Executor(
        plan=plan,
        forwards=parts.forwards,
        table=table,
        inputs=inputs,
        runner=runner,
        device=device,
        recorder=recorder,
        launch_all=_launch_all(parts, runner, recorder),
    )


def _launch_all(parts: Parts, runner: SegmentRunner, recorder: Recorder) -> LaunchAll:
    """Return how windows are launched: by captured graphs where device and attention can be captured."""
    capturer = parts.device.new_capturer()
    if capturer is None or parts.is_eager or parts.plan.pp_size > 1 or not parts.attention.is_capturable:
        return LaunchEach()
    return GraphedLaunches(
        capturer=capturer,
        prepare=runner.prepare,
        arena=parts.device.arena,
        wants_steps=recorder.wants_steps,
        most_graphs=_MOST_GRAPHS,
        most_bytes=_MOST_GRAPH_BYTES,
    )


def make_attention(device: Device, shard: Shard, cache: KvCache | None, dtype: torch.dtype) -> AttentionBackend:
    """Return how a shard's heads attend on a device."""
    spec = shard.spec
    return device.attention(
        AttentionShape(
            num_heads=shard.num_heads,
            num_kv_heads=shard.num_kv_heads,
            head_dim=spec.head_dim,
            windows=spec.sliding_windows,
            causal=spec.causal,
            max_length=spec.max_length,
            block_size=cache.block_size if cache is not None else None,
            dtype=dtype,
            device=device.torch_device,
        )
    )


def _make_sampler(parts: Parts) -> Sampler:
    size, num_ranks = parts.shard.spec.vocab_size, parts.plan.tp_size
    vocabulary = [split(size, num_ranks, rank) for rank in range(num_ranks)]
    return Sampler(vocabulary, parts.plan.tp_rank, parts.device.bring, parts.device.pick)
