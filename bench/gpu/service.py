"""Rows (d): the whole service under load, one strategy's cluster after another on the same GPUs, the same calls."""

import asyncio
import math
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.gpu.settings import Settings
from bench.gpu.shapes import VOCABULARY_SIZE
from bench.gpu.testbed import device_of, environment, exchange_name
from bench.link.figures import Figures, closed_loop_figures, open_loop_figures
from bench.link.load import CALL_LIMIT_S, LoadGenerator
from bench.link.runs import SATURATION
from bench.link.work import Call, Load, draw_arrivals
from liger.client import AsyncClient, Timings
from liger.errors import UnavailableError
from liger.local_cluster import ClusterSpec, GroupSpec, LocalCluster, RankSpec

_MODEL: Final = "made"
_INPUT_TOKENS: Final = 256
_INPUTS_A_CALL: Final = 8  # so that calls cost little beside what they ask
_NEW_TOKENS: Final = 64
_DIMENSIONS: Final = 8
_FULL_BATCHES: Final = 6  # that calls under way fill
_NUM_STREAMS: Final = 64
_MAX_LENGTH: Final = 1024
_KV_GIB: Final = 2.0
_START_LIMIT_S: Final = 300.0
_OPEN_SHARES: Final = (0.5, 0.9)  # of what the first strategy sustains
_MOST_CALLS: Final = 4096  # of a point
_FOLDER_LIMIT_S: Final = 300.0

Note = Callable[[dict[str, object]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceBed:
    """What all clusters have in common."""

    settings: Settings
    num_gpus: int
    partition: Mapping[str, str]  # see testbed.environment
    folder: Path  # of this run alone
    planes: Sequence[Mapping[str, Any]]  # rows of the data plane, to compare with
    tell: Callable[[str], None]

    @property
    def shape(self) -> str:
        """Name of the shape that is served."""
        return self.settings.shapes[0]


class EmbeddingLoad(LoadGenerator):
    """Sends embeddings of several inputs a call, of which few numbers come back."""

    async def _embed(self, call: Call) -> Timings:
        ids = call.token_ids
        inputs = [ids[first : first + _INPUT_TOKENS] for first in range(0, len(ids), _INPUT_TOKENS)]
        reply = await self._client.embed(self._model, inputs, dimensions=_DIMENSIONS, timeout_s=CALL_LIMIT_S)
        return reply.timings


def make_folder(bed: ServiceBed) -> Path:
    """Write the model that is served, and return its folder.

    Raises:
        UnavailableError: It cannot be written.
    """
    settings, folder = bed.settings, bed.folder / "model"
    words = (str(folder), bed.shape, str(settings.service_layers), str(_MAX_LENGTH), settings.dtype)
    device = device_of(settings, 0, bed.num_gpus)
    command = (sys.executable, "-m", "bench.gpu.made_folder", *words, device, str(settings.seed))
    done = subprocess.run(command, capture_output=True, text=True, timeout=_FOLDER_LIMIT_S, check=False)
    if done.returncode:
        raise UnavailableError(f"the served model cannot be made: {done.stderr[-500:]}")
    return folder


class ServiceBench:
    """Measures one strategy's cluster after another; open-loop rates are shares of what the first one sustains.

    Args:
        bed: What they have in common.
        note: Given every row.
    """

    def __init__(self, bed: ServiceBed, note: Note) -> None:
        self._bed = bed
        self._settings = bed.settings
        self._note = note
        self._sustained: dict[Load, float] = {}  # calls a second

    async def run(self) -> None:
        """Measure every strategy.

        Raises:
            LigerError: A cluster does not start, or answers nothing.
        """
        bed = self._bed
        bed.tell(f"service: writing {bed.shape} with {self._settings.service_layers} layers")
        model = await asyncio.to_thread(make_folder, bed)
        for strategy in self._settings.service_strategies:
            bed.tell(f"service: starting {strategy}")
            async with _serving(bed, strategy, model) as client:
                for load in Load:
                    await self._measure(strategy, load, EmbeddingLoad(client, _MODEL))

    async def _measure(self, strategy: str, load: Load, generator: LoadGenerator) -> None:
        seconds, outstanding = self._settings.service_seconds, _num_outstanding(self._settings, load)
        calls = draw_calls(load, _MOST_CALLS, f"{self._settings.seed}")
        warm = open_loop_figures(await generator.keep_busy(calls[:outstanding], outstanding))
        if warm.num_failed == warm.num_calls:
            raise UnavailableError(f"{strategy} answers no {load.value} call: {warm.error}")
        number = min(2 * outstanding + math.ceil(warm.calls_per_s * seconds), len(calls))
        full = closed_loop_figures(await generator.keep_busy(calls[:number], outstanding), outstanding)
        self._keep(strategy, load, (SATURATION, None), full)
        sustained = self._sustained.setdefault(load, full.calls_per_s)
        for share in _OPEN_SHARES:
            rate = share * sustained
            arrivals = draw_arrivals(rate, seconds, f"{self._settings.seed} {share}") if rate > 0 else []
            if arrivals:
                figures = open_loop_figures(await generator.send_at(calls, arrivals[: len(calls)]))
                self._keep(strategy, load, (f"{share:g} × {self._settings.service_strategies[0]}", rate), figures)

    def _keep(self, strategy: str, load: Load, point: tuple[str, float | None], figures: Figures) -> None:
        label, rate = point
        bed, plane = self._bed, None
        if load is Load.DISCRIMINATIVE and label == SATURATION:
            plane = plane_tokens_per_s(bed.planes, bed.settings, bed.shape, strategy)
        self._note(
            {
                "shape": bed.shape,
                "load": load.value,
                "layers": bed.settings.service_layers,
                "strategy": strategy,
                "label": label,
                "rate": rate,
                "calls_per_s": figures.calls_per_s,
                "tokens_per_s": figures.tokens_per_s,
                "p50_ms": 1e3 * figures.p50_s,
                "p90_ms": 1e3 * figures.p90_s,
                "p99_ms": 1e3 * figures.p99_s,
                "depth": figures.depth,
                "num_calls": figures.num_calls,
                "num_failed": figures.num_failed,
                "error": figures.error,
                "data_plane_tokens_per_s": plane,
                "share_of_data_plane": None if plane is None else figures.tokens_per_s / plane,
            }
        )


@asynccontextmanager
async def _serving(bed: ServiceBed, strategy: str, model: Path) -> AsyncIterator[AsyncClient]:
    cluster = LocalCluster(cluster_spec(bed, strategy, model))
    try:
        await cluster.start()
        async with AsyncClient(cluster.gateway) as client:
            yield client
    finally:  # nothing is in flight that a drain could save
        await cluster.kill()


def cluster_spec(bed: ServiceBed, strategy: str, model: Path) -> ClusterSpec:
    """Return one strategy's cluster: each rank with its GPU, or its part of one."""
    settings = bed.settings
    stages = settings.ranks if strategy == "pipeline" else 1
    environs = [
        environment(settings, rank, num_gpus=bed.num_gpus, partition=bed.partition) for rank in range(settings.ranks)
    ]
    ranks = tuple(
        RankSpec(
            prefix=("env", *(f"{name}={value}" for name, value in environ.items())),
            options={"device": device_of(settings, rank, bed.num_gpus)},
        )
        for rank, environ in enumerate(environs)
    )
    options = {
        "dtype": settings.dtype,
        "communicator": "auto" if stages > 1 else exchange_name(settings, num_devices=bed.num_gpus),
        "kv-cache-gib": f"{_KV_GIB if settings.device != 'cpu' else 0.1:g}",
        "profile-folder": str(bed.folder / "profiles"),
        "profile-limit-s": f"{settings.profile_limit_s:g}",
    }
    return ClusterSpec(
        groups=(
            GroupSpec(
                model_folder=model,
                model_name=_MODEL,
                tp_size=settings.ranks // stages,
                pp_size=stages,
                options=options,
                ranks=ranks,
            ),
        ),
        controller_options={
            "strategy": strategy,
            "max-batch-tokens": str(settings.service_tokens),
            "max-requests": "8192",
        },
        gateway_options={"max-requests": "8192"},
        threads_per_worker=1 if settings.device == "cpu" else None,
        log_folder=bed.folder / "logs" / strategy,
        start_limit_s=_START_LIMIT_S,
    )


def draw_calls(load: Load, count: int, seed: str) -> list[Call]:
    """Draw calls, all of one size."""
    rng = random.Random(f"service {load} {seed}")  # noqa: S311 - a draw that can be repeated, no secret
    num_new = _NEW_TOKENS if load is Load.GENERATIVE else 0
    num_tokens = _INPUT_TOKENS if num_new else _INPUTS_A_CALL * _INPUT_TOKENS
    return [
        Call(token_ids=tuple(rng.choices(range(1, VOCABULARY_SIZE), k=num_tokens)), num_new_tokens=num_new)
        for _ in range(count)
    ]


def _num_outstanding(settings: Settings, load: Load) -> int:
    if load is Load.GENERATIVE:
        return _NUM_STREAMS
    return math.ceil(_FULL_BATCHES * settings.service_tokens / (_INPUTS_A_CALL * _INPUT_TOKENS))


def plane_tokens_per_s(
    planes: Sequence[Mapping[str, Any]], settings: Settings, shape: str, strategy: str
) -> float | None:
    """Return what the data plane does of the served model's layers, from its own row of as many tokens a batch."""
    key = {"tensor": "serial_same_exchange_ms", "interleaved": "interleaved_ms", "pipeline": "pipeline_ms"}[strategy]
    found = [row[key] for row in planes if row["shape"] == shape and row["tokens"] == settings.service_tokens]
    if not found or not found[0]:
        return None
    batch_ms: float = found[0] * settings.service_layers / settings.layers
    return 1e3 * settings.service_tokens / batch_ms
