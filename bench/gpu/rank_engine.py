"""The product's engine with made weights, several beside one another: the one place that knows how they are built.

The stream that is current while an engine launches is minded here too, so that the rest of the bench knows engines and
windows alone.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

from bench.gpu.meeting import Meeting
from bench.gpu.settings import Settings
from bench.gpu.shapes import SHAPES, model_config
from bench.gpu.symmetric import SymmetricCommunicator
from bench.gpu.weights import make_shard
from bench.gpu.words import NULL, SYMMETRIC, WHOLE
from controller.core.cost_model import CostModel
from controller.core.plan import Forwards, Strategy, Topology
from controller.core.planner import Planner
from controller.core.situation import InterleaveOptions
from liger.domain import Fence
from liger.profile import ProfileTable
from liger.schedule import Pattern, Window, WindowOutcome
from worker.communicator.connections import Connections
from worker.config import WorkerConfig
from worker.engine import Engine
from worker.memory import GIB
from worker.rank import JoinPlan, Progress
from worker.shards.shard import Shard

NUM_SLOTS: Final = 4
BLOCK_SIZE: Final = 16
_EXCHANGE_LIMIT_S: Final = 60.0
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ShardKey = tuple[int, int, range]


class MadeEngine(Engine):
    """The product's engine; its weights are made, shared with other engines of the same split.

    Args:
        config: The worker's.
        shards: Those that were made, by split.
        seed: Names the weights.
        symmetric: ONE_SHOT or TWO_SHOT to all-reduce so; empty for what the config says.
        meeting: Store of the ranks.
    """

    def __init__(
        self, config: WorkerConfig, shards: dict[ShardKey, Shard], *, seed: int, symmetric: str, meeting: Meeting
    ) -> None:
        super().__init__(config)
        self._shards = shards
        self._seed = seed
        self._symmetric = symmetric
        self._meeting = meeting

    def enter(self) -> None:
        """Make this engine's compute stream the calling thread's, until another engine's is."""
        self._device.enter()

    def _load(self, plan: JoinPlan, progress: Progress) -> Shard:
        key = (plan.tp_rank, plan.tp_size, plan.layers)
        if key not in self._shards:
            progress("making weights", 0.0)
            self._shards[key] = make_shard(
                self._spec,
                tp_rank=plan.tp_rank,
                tp_size=plan.tp_size,
                layers=plan.layers,
                dtype=self._dtype,
                device=self._device.torch_device,
                seed=self._seed,
                ops=self._device.ops,
            )
        self._shard = self._shards[key]
        return self._shard

    def _connect(self, plan: JoinPlan) -> Connections:
        connections = super()._connect(plan)
        if not self._symmetric:
            return connections
        memory = self._exchange_memory(plan)
        stage = SymmetricCommunicator(
            self._symmetric,
            self._meeting.store,
            rank=plan.tp_rank,
            world_size=plan.tp_size,
            max_numel=memory.max_tokens * memory.hidden_size,
            dtype=self._dtype,
            device=str(self._device.torch_device),
        )
        return replace(connections, stage=stage)


class Running:
    """One engine that has joined."""

    def __init__(self, name: str, engine: MadeEngine, plan: JoinPlan, *, max_pieces: int) -> None:
        self.name = name
        self._max_pieces = max_pieces
        self.fence: Fence = plan.fence
        self.topology = Topology(tp_size=plan.tp_size)
        self._engine = engine
        self.forwards: Forwards = engine.join(plan, lambda *_: None).forwards

    def enter(self) -> None:
        """Prepare this thread for its launches; comes before those of a flow, as engines have streams of their own."""
        self._engine.enter()

    def launch(self, pattern: Pattern, window: Window) -> Callable[[], WindowOutcome]:
        """Launch a window; what is returned waits for its outcome, in the order of windows."""
        return self._engine.run(pattern, window)

    def profile(self, progress: Progress) -> ProfileTable:
        """Measure together with the other ranks."""
        self.enter()
        return self._engine.profile(progress, fresh=True)

    def planner(self, strategy: Strategy, costs: CostModel) -> Planner:
        """Return the product's planner for it."""
        options = InterleaveOptions(max_pieces=self._max_pieces)
        return Planner(self.forwards, strategy=strategy, topology=self.topology, costs=costs, options=options)

    def close(self) -> None:
        """Let go of its epoch."""
        self.enter()
        self._engine.close()


class Engines:
    """One shape's engines on this rank, by communicator; each joins when it is first asked for.

    Args:
        settings: What is measured.
        shape: Name of the shape.
        folder: Of this run, for this rank alone.
        device: Such as cuda:1.
        meeting: With the other ranks.
    """

    def __init__(self, settings: Settings, shape: str, folder: Path, device: str, meeting: Meeting) -> None:
        self.shape = SHAPES[shape]
        self.device = device
        self.dtype = _DTYPES[settings.dtype]
        self._settings = settings
        self._name = shape
        self._meeting = meeting
        self._folder = folder / shape
        self._shards: dict[ShardKey, Shard] = {}
        self._running: dict[str, Running | None] = {}
        self._write_folder()

    def get(self, name: str) -> Running:
        """Return an engine that every run needs: NULL, WHOLE or a communicator.

        Raises:
            LigerError: It cannot be had.
        """
        if self._running.get(name) is None:
            self._running[name] = self._start(name)
        running = self._running[name]
        assert running is not None, "just started"
        return running

    def find(self, name: str) -> Running | None:
        """Return an engine, or None if it cannot be had on some rank."""
        if name not in self._running:
            self._running[name] = self._meeting.attempt(name, lambda: self._start(name))
        return self._running[name]

    def close(self) -> None:
        """Let go of all engines and of the weights."""
        for running in self._running.values():
            if running is not None:
                running.close()
        self._running.clear()
        self._shards.clear()
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def _start(self, name: str) -> Running:
        tp_size = 1 if name == WHOLE else self._settings.ranks
        config = self._config(name, tp_size)
        symmetric = name if name in SYMMETRIC else ""
        engine = MadeEngine(
            config, self._shards, seed=self._settings.seed, symmetric=symmetric, meeting=self._meeting
        )  # fmt: skip
        endpoint = self._meeting.share(f"endpoint/{self._name}/{name}", engine.rendezvous_endpoint)
        plan = JoinPlan(
            fence=Fence(leader_term=1, group=f"bench-{self._name}-{name}", epoch=1),
            tp_rank=0 if name == WHOLE else self._meeting.rank,
            tp_size=tp_size,
            pp_stage=0,
            pp_size=1,
            rendezvous_endpoint=endpoint,
            num_slots=NUM_SLOTS,
            max_batch_tokens=self._settings.max_tokens,
            num_rows=self._num_rows,
            stage_layers=(self._settings.layers,),
        )
        return Running(name, engine, plan, max_pieces=self._settings.max_pieces)

    def _config(self, name: str, tp_size: int) -> WorkerConfig:
        settings = self._settings
        shown = "auto" if name == WHOLE else NULL if name in SYMMETRIC else name  # the latter then get their own
        return WorkerConfig(
            model_folder=self._folder,
            model_name=self._name,
            tp_size=tp_size,
            device=self.device,
            dtype=settings.dtype,
            communicator=shown,
            eager=settings.eager,
            threads=1 if self.device == "cpu" else 0,
            kv_cache_gib=self._kv_gib(tp_size, few=name == WHOLE),
            block_size=BLOCK_SIZE,
            exchange_limit_s=_EXCHANGE_LIMIT_S,
            profile_folder=self._folder / "profiles",
            profile_limit_s=settings.profile_limit_s,
        )

    @property
    def _num_rows(self) -> int:
        return max(self._settings.decode_sizes) + 1

    @property
    def max_length(self) -> int:
        """The longest sequence, in tokens."""
        return 4 * max(self._settings.context, self._settings.chunk, 256)

    def _kv_gib(self, tp_size: int, *, few: bool) -> float:
        """Return room for the sequences that decode, and for the prompt beside them."""
        decodes = "decode" in self._settings.parts and not few
        num_rows = self._num_rows if decodes else 1
        num_tokens = num_rows * (self._settings.context + 2 * self._settings.chunk + 2 * BLOCK_SIZE)
        kv_heads = -(-self.shape.kv_heads // tp_size)
        token_bytes = 2 * self._settings.layers * kv_heads * self.shape.head_dim * self.dtype.itemsize
        return max(num_tokens, self.max_length) * token_bytes * 1.02 / GIB

    def _write_folder(self) -> None:
        """Write what an engine reads of a model; its weights are made, one tensor stands for them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        config = model_config(self.shape, self._settings.layers, self.max_length)
        (self._folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file({"made": torch.zeros(1)}, self._folder / "model.safetensors")


def torch_device(device: str) -> torch.device:
    """Return a device by its name in a worker's config."""
    return torch.device(device)


def memory_bytes(device: str) -> int:
    """Return a device's memory; of the CPU as much as is ever needed."""
    if device == "cpu":
        return 1 << 62
    return int(torch.cuda.get_device_properties(torch_device(device)).total_memory)
