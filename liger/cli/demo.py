"""`liger demo`: two real models on a cluster of this machine, used once through the gateway, and gone again."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from rich.console import Console
from rich.rule import Rule

from liger import models
from liger.cli import tables
from liger.cli.account import account_line
from liger.cli.progress import shown
from liger.cli.states import GroupLines
from liger.client import AsyncClient, Message
from liger.client.results import InferReply
from liger.lifecycle import first_of
from liger.local_cluster import ClusterSpec, GroupSpec, LocalCluster

_CHAT: Final = "smollm2-135m-instruct"
_EMBEDDER: Final = "all-minilm-l6-v2"
_WORKERS: Final = 2
_QUESTION: Final = "What is the capital of France, and what is it known for?"
_TEXTS: Final = ("a cat sleeps on the sofa", "a kitten naps on a couch", "a GPU multiplies matrices")
_CONTEXT: Final = "Paris is the capital of"
_CONTINUATIONS: Final = (" France", " Japan")


def demo() -> None:
    """Bring two small models, serve them with two workers each, use them once, and stop."""
    specs = []
    for name in (_CHAT, _EMBEDDER):
        with shown(name) as progress:
            specs.append(GroupSpec(model_folder=models.resolve(name, progress), model_name=name, tp_size=_WORKERS))
    asyncio.run(_show(ClusterSpec(groups=tuple(specs)), Console(highlight=False)))


async def _show(spec: ClusterSpec, console: Console) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    num_workers = sum(group.tp_size for group in spec.groups)
    console.print(
        f"Starting a gateway, a controller and {num_workers} workers on this machine "
        f"({os.cpu_count()} cores, {spec.threads()} thread(s) a worker).",
        soft_wrap=True,
    )
    lines = GroupLines(spec.group_names(), console)
    cluster = LocalCluster(spec, lines.show)
    try:
        with lines:
            await first_of(cluster.start(), stopped.wait())
        if not stopped.is_set():
            console.print(f"Serving at [bold]{cluster.gateway}[/bold]; logs in {cluster.log_folder}", soft_wrap=True)
            await first_of(_use(cluster.gateway, console), cluster.wait(), stopped.wait())
    finally:
        await cluster.stop()
        console.print(Rule(style="dim"))
        console.print("Stopped: nothing is left running.")


async def _use(gateway: str, console: Console) -> None:
    parts: dict[str, Callable[[AsyncClient, Console], Awaitable[None]]] = {
        f"Generate: {_CHAT} answers a question": _generate,
        f"Embed: {_EMBEDDER} compares three texts": _embed,
        f"Score: {_CHAT} weighs two continuations": _score,
    }
    async with AsyncClient(gateway) as client:
        for title, part in parts.items():
            console.print(Rule(title, align="left", style="dim"))
            await part(client, console)


async def _generate(client: AsyncClient, console: Console) -> None:
    console.print(f"[bold]{_QUESTION}[/bold]")
    stream = client.generate(_CHAT, [Message("user", _QUESTION)], max_tokens=64)
    async for text in stream:
        console.print(text, end="", markup=False, soft_wrap=True)
    console.print()
    if stream.usage and stream.timings and stream.placement:
        _account(console, account_line(stream.usage, stream.timings, stream.placement))


async def _embed(client: AsyncClient, console: Console) -> None:
    reply = await client.embed(_EMBEDDER, _TEXTS)
    console.print(tables.similarities(_TEXTS, reply.embeddings))
    _infer_account(console, reply)


async def _score(client: AsyncClient, console: Console) -> None:
    reply = await client.score(_CHAT, [(_CONTEXT, continuation) for continuation in _CONTINUATIONS])
    console.print(f"[bold]{_CONTEXT}…[/bold]")
    console.print(tables.scores(_CONTINUATIONS, reply.scores))
    _infer_account(console, reply)


def _infer_account(console: Console, reply: InferReply) -> None:
    _account(console, account_line(reply.usage, reply.timings, reply.placement))


def _account(console: Console, line: str) -> None:
    console.print(line, style="dim", markup=False, soft_wrap=True)
