"""The two clusters that are compared: one whose controller has weights, one whose has none."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.link.load import LoadGenerator
from bench.link.network import Place
from bench.mixed import made_smollm2
from bench.mixed.settings import Settings
from bench.mixed.streams import Streams
from bench.one_model import one_model_spec
from bench.words import all_words
from liger.client import AsyncClient
from liger.local_cluster import LocalCluster
from liger.models import resolve
from liger.models.store import liger_home

MODEL = "model"
"""Name of the model, and so of its group, in both clusters."""

_NUM_SPECIAL: Final = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A cluster that runs, and its clients."""

    controller: str  # host:port
    streams: Streams
    load: LoadGenerator
    vocabulary: Sequence[int]  # what clients draw tokens from


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Both clusters; one idles while the other is measured."""

    plain: Service
    weighted: Service


@asynccontextmanager
async def running_services(
    settings: Settings, places: Sequence[Place], tell: Callable[[str], None]
) -> AsyncIterator[Services]:
    """Run both clusters inside the block.

    Args:
        settings: What is measured.
        places: Where the ranks run; empty for this machine's own namespace.
        tell: Told what is going on.

    Raises:
        LigerError: One does not start, or the weights are none.
    """
    folder = _folder(settings.model)
    options: tuple[dict[str, str], ...] = ({}, {"task-weights": settings.weights})
    clusters = [
        LocalCluster(
            one_model_spec(
                MODEL,
                folder,
                places=places,
                rate=settings.rate,
                controller_options=own,
                threads_per_rank=settings.threads,
            )
        )
        for own in options
    ]
    try:
        for cluster, name in zip(clusters, ("without weights", "with weights"), strict=True):
            tell(f"starting the cluster {name}")
            await cluster.start()  # the ranks of the first measure themselves, those of the other read that
        async with AsyncExitStack() as stack:
            plain, weighted = [await _serve(cluster, settings.model, stack) for cluster in clusters]
            yield Services(plain=plain, weighted=weighted)
    finally:  # nothing is in flight that a drain could save
        await asyncio.gather(*(cluster.kill() for cluster in clusters))


def _folder(model: str) -> Path:
    if model == made_smollm2.NAME:
        return made_smollm2.make_smollm2(liger_home() / "bench")
    return resolve(model)


async def _serve(cluster: LocalCluster, model: str, stack: AsyncExitStack) -> Service:
    client = await stack.enter_async_context(AsyncClient(cluster.gateway))
    return Service(
        controller=cluster.controller,
        streams=Streams(client, MODEL),
        load=LoadGenerator(client, MODEL),
        vocabulary=await _vocabulary(client, model),
    )


async def _vocabulary(client: AsyncClient, model: str) -> Sequence[int]:
    """Return tokens of plain words; any but the first few, which are special, of a model without a tokenizer."""
    if model == made_smollm2.NAME:
        return range(_NUM_SPECIAL, made_smollm2.VOCABULARY_SIZE)
    tokens = await client.tokenize(MODEL, all_words(), add_special_tokens=False)
    return tokens.token_ids
