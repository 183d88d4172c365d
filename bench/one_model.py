"""A cluster that serves one model, on this machine or over a slow link."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.link.clusters import THREADS_PER_RANK, ranks_at
from bench.link.network import Place
from liger.local_cluster import ClusterSpec, GroupSpec

NUM_RANKS: Final = 2
START_LIMIT_S: Final = 300.0
_KV_GIB: Final = "0.25"


def one_model_spec(
    model: str,
    folder: Path,
    *,
    places: Sequence[Place] = (),
    rate: str = "",
    controller_options: Mapping[str, str] | None = None,
    threads_per_rank: int = THREADS_PER_RANK,
) -> ClusterSpec:
    """Return the cluster.

    Args:
        model: Name that clients use.
        folder: Of the model.
        places: Where each rank runs; empty for this machine's own namespace, over loopback.
        rate: Of the link between the places; profiles are kept apart by it.
        controller_options: Flags of the controller without their dashes.
        threads_per_rank: With which each rank computes.
    """
    slow = {"insecure": "true", "profile-tag": rate} if places else {}
    group = GroupSpec(
        model_folder=folder,
        model_name=model,
        tp_size=len(places) or NUM_RANKS,
        options={"kv-cache-gib": _KV_GIB, **slow},
        ranks=ranks_at(places),
    )
    outside = {"insecure": "true"} if places else {}
    return ClusterSpec(
        groups=(group,),
        controller_listen=f"{places[0].root_host if places else '127.0.0.1'}:0",
        controller_options={**outside, **(controller_options or {})},
        threads_per_worker=threads_per_rank,
        start_limit_s=START_LIMIT_S,
    )
