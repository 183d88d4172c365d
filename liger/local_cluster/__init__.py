"""Runs a whole cluster on this machine: controller, workers and gateway as processes of their own.

    spec = ClusterSpec(groups=(GroupSpec(model_folder=folder, model_name="m", tp_size=2),))
    async with LocalCluster(spec) as cluster:
        async with AsyncClient(cluster.gateway) as client: ...

Used by `liger up`, `make demo`, the benchmarks and the tests. Reading map: `spec` (what to run), `cluster` (start,
watch and stop in order), `gpus` (how many there are), `process` (one service), `child` (what a service's process does
first, so that none outlives us).
"""

from liger.local_cluster.cluster import LocalCluster
from liger.local_cluster.process import ServiceProcess
from liger.local_cluster.spec import ClusterSpec, GroupSpec, RankSpec

__all__ = ["ClusterSpec", "GroupSpec", "LocalCluster", "RankSpec", "ServiceProcess"]
