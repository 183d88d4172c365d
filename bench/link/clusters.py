"""The clusters that are compared: one for each strategy, side by side on one link."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.link.load import LoadGenerator
from bench.link.network import Network, Place
from bench.link.settings import Settings
from bench.link.work import Load
from liger.client import AsyncClient
from liger.errors import LigerError
from liger.local_cluster import ClusterSpec, GroupSpec, LocalCluster, RankSpec

SILENT: Final = "silent"
"""Name of tensor parallelism without communication, whose outputs mean nothing: what compute alone costs."""
THREADS_PER_RANK: Final = 1
_START_LIMIT_S: Final = 300.0
_MAX_CALLS: Final = "8192"
_KV_GIB: Final = "0.25"
_QUICK_PROFILE_S: Final = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A cluster that runs."""

    name: str  # its strategy, or SILENT
    group: str
    controller: str  # host:port
    load: LoadGenerator


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What contestants have in common."""

    settings: Settings
    network: Network
    load: Load
    logs: Path  # folder for the services' logs


def contestant_names(settings: Settings) -> tuple[str, ...]:
    """Return the strategies, and SILENT where it helps to judge one."""
    return (*settings.strategies, *([SILENT] if "interleaved" in settings.strategies else []))


@asynccontextmanager
async def running_contestants(
    contest: Contest, model: Path, tell: Callable[[str], None]
) -> AsyncIterator[list[Contestant]]:
    """Run a cluster for each contestant inside the block.

    Args:
        contest: What they have in common.
        model: Folder of the model they serve.
        tell: Told what is going on.

    Raises:
        LigerError: One does not start.
    """
    names = contestant_names(contest.settings)
    clusters = {name: LocalCluster(cluster_spec(contest, name, model)) for name in names}
    first = "interleaved" if "interleaved" in names else names[0]
    try:
        if not contest.settings.quick:  # alone: at their first start its ranks measure themselves
            tell(f"starting {first}")
            await clusters[first].start()
        await _start_all({name: cluster for name, cluster in clusters.items() if not cluster.processes}, tell)
        async with AsyncExitStack() as stack:
            contestants = []
            for name, cluster in clusters.items():
                client = await stack.enter_async_context(AsyncClient(cluster.gateway))
                load = LoadGenerator(client, contest.load.value)
                one = Contestant(name=name, group=contest.load.value, controller=cluster.controller, load=load)
                contestants.append(one)
            yield contestants
    finally:  # nothing is in flight that a drain could save
        await asyncio.gather(*(cluster.kill() for cluster in clusters.values()))


async def _start_all(clusters: Mapping[str, LocalCluster], tell: Callable[[str], None]) -> None:
    """Start clusters side by side; raise the first one's error."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for name, cluster in clusters.items():
                tell(f"starting {name}")
                tasks.create_task(cluster.start())
    except* LigerError as failures:
        raise next(error for error in failures.exceptions if isinstance(error, LigerError)) from None


def cluster_spec(contest: Contest, name: str, model: Path) -> ClusterSpec:
    """Return one contestant's cluster: ranks in the namespaces, all else in the machine's own."""
    settings, places = contest.settings, contest.network.places
    stages = settings.ranks if name == "pipeline" else 1
    options = {"insecure": "true", "kv-cache-gib": _KV_GIB, "profile-tag": settings.rate}
    if settings.quick:  # a rough profile will do, and is kept apart
        options |= {"profile-limit-s": _QUICK_PROFILE_S, "profile-tag": f"{settings.rate} quick"}
    if name == SILENT:
        options |= {"communicator": "null", "profile-tag": f"{settings.rate} silent"}
    group = GroupSpec(
        model_folder=model,
        model_name=contest.load.value,
        tp_size=settings.ranks // stages,
        pp_size=stages,
        options=options,
        ranks=ranks_at(places),
    )
    return ClusterSpec(
        groups=(group,),
        controller_listen=f"{places[0].root_host}:0",
        controller_options={
            "insecure": "true",
            "strategy": "tensor" if name == SILENT else name,
            "max-batch-tokens": str(settings.max_batch_tokens),
            "max-requests": _MAX_CALLS,
        },
        gateway_options={"max-requests": _MAX_CALLS},
        threads_per_worker=THREADS_PER_RANK,
        log_folder=contest.logs / contest.load.value / name,
        start_limit_s=_START_LIMIT_S,
    )


def ranks_at(places: Sequence[Place]) -> tuple[RankSpec, ...]:
    """Return what ranks need for themselves to run in the namespaces of a slow link, one in each."""
    return tuple(
        RankSpec(
            prefix=place.prefix, options={"listen": f"{place.control_host}:0", "exchange-host": place.data_host}
        )
        for place in places
    )  # fmt: skip
