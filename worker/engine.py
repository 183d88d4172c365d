"""What a rank holds: weights for its life, and for an epoch its communicator, keys and values, and executor."""

import os
import threading
from pathlib import Path
from typing import Final

import torch

from liger.domain import BatchKind, ModelCard
from liger.errors import ConfigError, GroupFailedError, LigerError
from liger.schedule import Pattern, Window, WindowOutcome
from worker.communicator.base import Communicator
from worker.communicator.gloo import GlooCommunicator
from worker.communicator.local import LocalCommunicator
from worker.config import WorkerConfig
from worker.executor import Executor
from worker.inputs import InputBuilder
from worker.kv_cache import KvCache, bytes_per_block
from worker.rank import Joined, JoinPlan, Progress
from worker.rendezvous import Rendezvous, RendezvousStore
from worker.sampling.sampler import Sampler
from worker.segments import forwards
from worker.sequences import SequenceTable
from worker.shards.folder import fingerprint, read_spec
from worker.shards.loading import load_shard
from worker.shards.partition import split
from worker.shards.shard import Shard
from worker.shards.spec import ModelSpec

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Engine:
    """A CPU rank. Implements `RankEngine`.

    Args:
        config: The worker's.

    Raises:
        ModelFolderError: The folder holds no model that can be served.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._spec = read_spec(config.model_folder)
        self._dtype = DTYPES[config.dtype]
        self._forwards = forwards(self._spec)
        self._num_threads = config.threads or os.cpu_count() or 1
        torch.set_num_threads(self._num_threads)
        self._store = RendezvousStore(config.host)
        self._shard: Shard | None = None
        self._held: tuple[int, int] | None = None  # tp_rank and tp_size of the shard
        self._communicator: Communicator | None = None
        self._executor: Executor | None = None
        self._aborted = threading.Event()
        self.card = _card(config, self._spec)

    @property
    def rendezvous_endpoint(self) -> str:
        """host:port where other ranks find this one if it becomes rank 0."""
        return self._store.endpoint

    @property
    def device(self) -> str:
        """What it computes on, for people."""
        return f"cpu ({self._num_threads} thread{'s' if self._num_threads > 1 else ''})"

    def join(self, plan: JoinPlan, progress: Progress) -> Joined:
        """Load weights and find the other ranks."""
        self._aborted.clear()
        shard = self._load(plan, progress)
        progress("waiting for the other ranks", 1.0)
        self._communicator = self._connect(plan)
        cache = self._allocate(shard)
        table = SequenceTable(plan.num_rows)
        inputs = InputBuilder(spec=self._spec, table=table, cache=cache, dtype=self._dtype, device="cpu")
        self._executor = Executor(
            shard=shard,
            communicator=self._communicator,
            forwards=self._forwards,
            table=table,
            inputs=inputs,
            sampler=Sampler(self._vocabulary(plan.tp_size), plan.tp_rank) if cache else None,
        )
        return Joined(
            forwards=self._forwards,
            num_blocks=cache.num_blocks if cache else 0,
            block_size=self._config.block_size,
            weight_bytes=shard.weight_bytes,
            kv_bytes=cache.num_bytes if cache else 0,
        )

    def run(self, pattern: Pattern, window: Window) -> WindowOutcome:
        """Execute a window."""
        if self._executor is None:
            raise LigerError("a window came before the rank had joined")
        return self._executor.run(pattern, window)

    def abort(self) -> None:
        """Make a `join` or `run` under way end with an error."""
        self._aborted.set()
        communicator = self._communicator  # the launching thread may let go of it meanwhile
        if communicator is not None:
            communicator.abort()

    def leave(self) -> None:
        """Let go of the epoch; weights stay."""
        self._executor = None
        if self._communicator is not None:
            self._communicator.close()
            self._communicator = None

    def close(self) -> None:
        """Let go of everything."""
        self.leave()
        self._store.close()

    def _load(self, plan: JoinPlan, progress: Progress) -> Shard:
        if self._shard is None or self._held != (plan.tp_rank, plan.tp_size):
            self._shard = None
            progress("loading weights", 0.0)
            self._shard = load_shard(
                self._config.model_folder,
                self._spec,
                tp_rank=plan.tp_rank,
                tp_size=plan.tp_size,
                dtype=self._dtype,
                progress=lambda share: self._report_load(progress, share),
            )
            self._held = (plan.tp_rank, plan.tp_size)
        return self._shard

    def _report_load(self, progress: Progress, share: float) -> None:
        if self._aborted.is_set():
            raise GroupFailedError("loading was given up: the group's epoch ended")
        progress("loading weights", share)

    def _connect(self, plan: JoinPlan) -> Communicator:
        if plan.tp_size == 1:
            return LocalCommunicator()
        rendezvous = Rendezvous(plan, limit_s=self._config.rendezvous_limit_s, aborted=self._aborted)
        return GlooCommunicator(
            rendezvous.meet(),
            rank=plan.tp_rank,
            world_size=plan.tp_size,
            host=self._config.host,
            limit_s=self._config.exchange_limit_s,
        )

    def _allocate(self, shard: Shard) -> KvCache | None:
        if BatchKind.DECODE not in self._forwards:
            return None
        size = self._config.block_size
        block_bytes = bytes_per_block(self._spec, shard.num_kv_heads, self._dtype, block_size=size)
        num_blocks = int(self._config.kv_cache_gib * 2**30 / block_bytes)
        if num_blocks == 0:
            raise ConfigError(f"--kv-cache-gib {self._config.kv_cache_gib} holds no block of {block_bytes} bytes")
        try:
            return KvCache.allocate(
                layers=shard.layers,
                num_blocks=num_blocks,
                block_size=size,
                num_kv_heads=shard.num_kv_heads,
                head_dim=self._spec.head_dim,
                dtype=self._dtype,
            )
        except RuntimeError as error:  # how torch tells that memory is short
            gib = self._config.kv_cache_gib
            raise ConfigError(f"a KV cache of {gib:g} GiB does not fit this machine; lower --kv-cache-gib") from error

    def _vocabulary(self, tp_size: int) -> list[range]:
        return [split(self._spec.vocab_size, tp_size, rank) for rank in range(tp_size)]


def _card(config: WorkerConfig, spec: ModelSpec) -> ModelCard:
    return ModelCard(
        name=config.name,
        architecture=spec.architecture,
        tasks=spec.tasks,
        max_length=spec.max_length,
        vocabulary_size=spec.vocab_size,
        hidden_size=spec.output_size,
        num_layers=spec.num_layers,
        labels=spec.labels,
        default_pooling=spec.default_pooling,
        default_normalize=spec.default_normalize,
        eos_token_ids=spec.eos_token_ids,
        dtype=config.dtype,
        fingerprint=fingerprint(Path(config.model_folder)),
        multi_label=spec.multi_label,
        num_token_types=spec.num_token_types,
    )
