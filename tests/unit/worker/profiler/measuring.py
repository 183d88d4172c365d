"""Ranks as threads of one process that measure a tiny model together, over real sockets."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from liger.domain import ModelCard, Task
from liger.profile import ProfileTable
from worker.attention.interface import AttentionShape
from worker.communicator.base import Communicator
from worker.communicator.connections import Connections, Connector
from worker.config import WorkerConfig
from worker.devices.cpu import CpuDevice
from worker.kv_cache import KvCache
from worker.profiler.profiler import Profiler
from worker.profiler.store import ProfileStore
from worker.profiler.subject import Subject, make_subject
from worker.rank import JoinPlan
from worker.rendezvous import Rendezvous, RendezvousStore
from worker.shards.folder import read_spec
from worker.shards.loading import load_shard
from worker.timing.base import Stopwatch
from worker.timing.host import HostStopwatch

HOST = "127.0.0.1"
CARD = ModelCard(
    name="m", architecture="A", tasks=(Task.EMBED,), max_length=64, vocabulary_size=131, hidden_size=36, num_layers=3
)


@dataclass
class Rank:
    """One rank of a group, before it measures."""

    folder: Path
    store: RendezvousStore
    plan: JoinPlan
    profiles: Path
    speed: int = 1  # of its clock
    num_blocks: int = 32
    aborted: threading.Event = field(default_factory=threading.Event)
    said: list[tuple[str, float]] = field(default_factory=list)
    told: Callable[[str], None] = lambda phase: None
    stopwatch: Stopwatch | None = None
    wrap: Callable[[Communicator], Communicator] = lambda stage: stage

    def profile(self, *, fresh: bool = False, limit_s: float = 20.0) -> ProfileTable:
        rendezvous = Rendezvous(self.plan, limit_s=30.0, aborted=threading.Event())
        store = rendezvous.meet() if self.plan.world_size > 1 else None
        connections = Connector(self.plan, store, host=HOST, limit_s=30.0).connect()
        try:
            return self._profiler(limit_s).profile(self._subject(connections), fresh=fresh)
        finally:
            connections.close()

    def _profiler(self, limit_s: float) -> Profiler:
        def progress(phase: str, share: float) -> None:
            self.said.append((phase, share))
            self.told(phase)

        return Profiler(
            ProfileStore(self.profiles),
            hardware=f"rank of speed {self.speed}",
            limit_s=limit_s,
            progress=progress,
            aborted=self.aborted,
            clock_ns=self.clock_ns,
        )

    def clock_ns(self) -> int:
        return time.perf_counter_ns() * self.speed

    def _subject(self, connections: Connections) -> Subject:
        plan, spec = self.plan, read_spec(self.folder)
        shard = load_shard(self.folder, spec, tp_rank=plan.tp_rank, tp_size=plan.tp_size, layers=plan.layers)
        cache = KvCache.allocate(
            layers=shard.layers,
            num_blocks=self.num_blocks,
            block_size=16,
            num_kv_heads=shard.num_kv_heads,
            head_dim=spec.head_dim,
        )
        device = CpuDevice(1)
        shape = AttentionShape(
            num_heads=shard.num_heads,
            num_kv_heads=shard.num_kv_heads,
            head_dim=spec.head_dim,
            windows=spec.sliding_windows,
            causal=spec.causal,
            max_length=spec.max_length,
            dtype=torch.float32,
            device=device.torch_device,
            block_size=16,
        )
        return make_subject(
            WorkerConfig(model_folder=self.folder),
            CARD,
            plan,
            shard=shard,
            communicator=self.wrap(connections.stage),
            host=connections.host,
            cache=cache if Task.GENERATE in spec.tasks else None,
            dtype=torch.float32,
            device=device,
            attention=device.attention(shape),
            stopwatch=self.stopwatch or HostStopwatch(self.clock_ns),
        )


def together(ranks: list[Rank], **settings) -> list[ProfileTable]:
    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(lambda rank: rank.profile(**settings), ranks))


def measured(rank: Rank) -> bool:
    return bool(rank.said)
