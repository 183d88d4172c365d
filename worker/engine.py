"""What a rank holds: weights for its life, and for an epoch its communicator, keys and values, and executor."""

import gc
import logging
import threading
from pathlib import Path
from typing import Final

import torch

from liger.domain import BatchKind, ModelCard
from liger.errors import GroupFailedError, LigerError
from liger.models.store import liger_home
from liger.profile import ProfileTable
from liger.schedule import Pattern, Window
from worker.assembly import Parts, build_executor, make_attention
from worker.communicator.connections import Connections, Connector
from worker.communicator.memory import ExchangeMemory
from worker.config import WorkerConfig
from worker.devices.factory import make_device
from worker.executor import Executor
from worker.kv_allocation import allocate_cache
from worker.profiler.identity import hardware_name
from worker.profiler.profiler import Profiler
from worker.profiler.store import ProfileStore
from worker.profiler.subject import Subject, make_subject
from worker.rank import Joined, JoinPlan, Progress, ReadOutcome
from worker.rendezvous import Rendezvous, RendezvousStore
from worker.segments import forwards
from worker.shards.folder import fingerprint, read_spec
from worker.shards.loading import load_shard
from worker.shards.shard import Shard
from worker.shards.spec import ModelSpec
from worker.structured.matchers import Matchers

_LOG: Final = logging.getLogger(__name__)
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Engine:
    """A rank on the device that its settings name. Implements `RankEngine`.

    Args:
        config: The worker's.

    Raises:
        ModelFolderError: The folder holds no model that can be served.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._spec = read_spec(config.model_folder)
        self._dtype = DTYPES[config.dtype]
        self._device = make_device(config)
        self._device.enter()
        self._store = RendezvousStore(config.exchange_address)
        self._shard: Shard | None = None
        self._held: tuple[int, int, range] | None = None  # tp_rank, tp_size and layers of the shard
        self._connections: Connections | None = None
        self._executor: Executor | None = None
        self._matchers: Matchers | None = None  # of an epoch in which tokens are drawn here
        self._subject: Subject | None = None  # of the epoch's profile
        self._aborted = threading.Event()
        self.card = _card(config, self._spec)

    @property
    def rendezvous_endpoint(self) -> str:
        """host:port where other ranks find this one if it becomes rank 0."""
        return self._store.endpoint

    @property
    def device(self) -> str:
        """What it computes on, for people."""
        return self._device.name

    @property
    def runs_ahead(self) -> bool:
        """Whether outcomes come later than `run` returns."""
        return self._device.runs_ahead

    @property
    def num_graphs(self) -> int:
        """How many captured graphs the epoch holds."""
        return self._executor.num_graphs if self._executor is not None else 0

    def join(self, plan: JoinPlan, progress: Progress) -> Joined:
        """Load weights and find the other ranks."""
        self._aborted.clear()
        self._device.enter()
        self._device.begin_epoch()
        segments = forwards(self._spec, plan.stage_layers)
        shard = self._load(plan, progress)
        progress("waiting for the other ranks", 1.0)
        self._connections = connections = self._connect(plan)
        cache = None
        if BatchKind.DECODE in segments:
            cache = allocate_cache(self._config, plan, shard, self._device, self._dtype)
        attention = make_attention(self._device, shard, cache, self._dtype)
        draws = cache is not None and plan.pp_stage == plan.pp_size - 1
        self._matchers = self._start_matchers() if draws else None
        self._executor = build_executor(
            Parts(
                plan=plan,
                forwards=segments,
                shard=shard,
                cache=cache,
                connections=connections,
                attention=attention,
                matchers=self._matchers,
                device=self._device,
                dtype=self._dtype,
                is_eager=self._config.eager,
            )
        )
        self._subject = make_subject(
            self._config,
            self.card,
            plan,
            shard=shard,
            communicator=connections.stage,
            cache=cache,
            dtype=self._dtype,
            device=self._device,
            attention=attention,
            host=connections.host,
        )
        return Joined(
            forwards=segments,
            num_blocks=cache.num_blocks if cache else 0,
            block_size=self._config.block_size,
            weight_bytes=shard.weight_bytes,
            kv_bytes=cache.num_bytes if cache else 0,
        )

    def profile(self, progress: Progress, *, fresh: bool = False) -> ProfileTable:
        """Give the profile of this rank's stage, the same on all its ranks."""
        if self._subject is None:
            raise LigerError("a profile was asked for before the rank had joined")
        profiler = Profiler(
            ProfileStore(self._config.profile_folder or liger_home() / "profiles"),
            hardware=hardware_name(self.device, self._device.torch_device),
            limit_s=self._config.profile_limit_s,
            progress=progress,
            aborted=self._aborted,
        )
        return profiler.profile(self._subject, fresh=fresh)

    def run(self, pattern: Pattern, window: Window) -> ReadOutcome:
        """Launch a window."""
        if self._executor is None:
            raise LigerError("a window came before the rank had joined")
        return self._executor.run(pattern, window)

    def abort(self) -> None:
        """Make a `join`, `profile` or `run` under way end with an error."""
        self._aborted.set()
        self._device.give_up()
        connections = self._connections  # the launching thread may let go of them meanwhile
        if connections is not None:
            connections.abort()

    def leave(self) -> None:
        """Let go of the epoch; weights stay.

        Raises:
            LigerError: The device is lost, and this worker with it.
        """
        self._executor, self._subject = None, None
        gc.collect()  # a runner holds itself: graphs must go before connections, keys and values before the next ones
        try:
            self._device.leave()
        except RuntimeError as error:  # how torch tells
            reason = (str(error).splitlines() or [""])[0]
            raise LigerError(f"{self.device} is lost ({reason}); this worker must be started again") from error
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._matchers is not None:
            self._matchers.close()
            self._matchers = None
        if self._connections is not None:
            self._connections.close()
            self._connections = None

    def close(self) -> None:
        """Let go of everything."""
        self.leave()
        self._store.close()

    def _start_matchers(self) -> Matchers:
        spec = self._spec
        return Matchers(
            folder=Path(self._config.model_folder),
            vocabulary_size=spec.vocab_size,
            eos_token_ids=spec.eos_token_ids,
        )

    def _load(self, plan: JoinPlan, progress: Progress) -> Shard:
        wanted = (plan.tp_rank, plan.tp_size, plan.layers)
        if self._shard is None or self._held != wanted:
            self._shard = None
            progress("loading weights", 0.0)
            self._shard = load_shard(
                self._config.model_folder,
                self._spec,
                tp_rank=plan.tp_rank,
                tp_size=plan.tp_size,
                layers=plan.layers,
                dtype=self._dtype,
                device=self._device.torch_device,
                ops=self._device.ops,
                progress=lambda share: self._report_load(progress, share),
            )
            self._held = wanted
        return self._shard

    def _report_load(self, progress: Progress, share: float) -> None:
        if self._aborted.is_set():
            raise GroupFailedError("loading was given up: the group's epoch ended")
        progress("loading weights", share)

    def _connect(self, plan: JoinPlan) -> Connections:
        config, is_null = self._config, self._config.communicator == "null"
        rendezvous = Rendezvous(plan, limit_s=config.rendezvous_limit_s, aborted=self._aborted)
        store = rendezvous.meet() if plan.world_size > 1 else None
        connector = Connector(
            plan,
            store,
            host=config.exchange_address,
            limit_s=config.exchange_limit_s,
            kind="auto" if is_null else config.communicator,
            memory=self._exchange_memory(plan) if self._device.runs_ahead else None,
        )
        return connector.connect(is_null=is_null)

    def _exchange_memory(self, plan: JoinPlan) -> ExchangeMemory:
        """Return what a batch's activations come to, with the padding of its bucket."""
        most = plan.max_batch_tokens
        padded = self._device.bucket(BatchKind.ENCODE, most)
        return ExchangeMemory(
            num_slots=plan.num_slots,
            max_tokens=max(most, padded or most),
            hidden_size=self._spec.hidden_size,
            dtype=self._dtype,
            device=self._device.torch_device,
        )


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
