"""Real clusters for the tests that need them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from liger.client import AsyncClient
from liger.local_cluster import ClusterSpec, GroupSpec, LocalCluster


@asynccontextmanager
async def running_cluster(log_folder: Path, *groups: GroupSpec, **spec: object) -> AsyncIterator[AsyncClient]:
    """Run a cluster of processes and give a client of its gateway."""
    async with (
        LocalCluster(ClusterSpec(groups=groups, log_folder=log_folder, **spec)) as cluster,
        AsyncClient(cluster.gateway, timeout_s=240) as client,
    ):
        yield client
