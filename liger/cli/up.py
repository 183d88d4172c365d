"""`liger up`: a cluster on this machine, for as long as the command runs."""

import asyncio
import signal
from collections.abc import Sequence
from enum import Enum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from liger import models
from liger.cli.progress import shown
from liger.cli.states import GroupLines
from liger.cli.worker_options import (
    Communicator,
    CommunicatorOption,
    Device,
    DeviceOption,
    Dtype,
    KvCacheGib,
    KvMemoryFraction,
    gpus_for,
    worker_options,
)
from liger.errors import LigerError
from liger.lifecycle import first_of
from liger.local_cluster import ClusterSpec, GroupSpec, LocalCluster


class Strategy(Enum):
    """What `--strategy` takes."""

    tensor = "tensor"
    pipeline = "pipeline"
    interleaved = "interleaved"


def up(
    model: Annotated[list[str], typer.Option(metavar="NAME|PATH|HUB-ID", help="A model to serve; may be repeated.")],
    *,
    workers: Annotated[
        list[int] | None, typer.Option(help="Ranks that share a copy of the model; one for each --model, in order.")
    ] = None,
    copies: Annotated[
        list[int] | None, typer.Option(help="Copies of the model, each with its own ranks; one for each --model.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The gateway's port; 0 takes a free one.")] = 8600,
    controller_port: Annotated[int, typer.Option(min=0, max=65535, help="The controller's port.")] = 8601,
    strategy: Annotated[
        Strategy, typer.Option(help="How batches share the ranks: one at a time, one a stage, or interleaved.")
    ] = Strategy.interleaved,
    stages: Annotated[
        int | None,
        typer.Option(min=1, help="Pipeline stages of each model; default: 1, or a stage a worker with pipeline."),
    ] = None,
    device: DeviceOption = Device.cpu,
    communicator: CommunicatorOption = Communicator.auto,
    dtype: Dtype = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each worker; default: the cores, shared.")] = None,
    kv_memory_fraction: KvMemoryFraction = None,
    kv_cache_gib: KvCacheGib = None,
) -> None:
    """Serve models on this machine until Ctrl-C, which drains; a second one stops at once."""
    sizes = _paired("--workers", workers, model)
    numbers = _paired("--copies", copies, model)
    num_gpus = gpus_for(device)
    options = worker_options(device, communicator, dtype, kv_memory_fraction, kv_cache_gib)
    groups = [
        _group(name, size, _stages(strategy, stages, size), number, options)
        for name, size, number in zip(model, sizes, numbers, strict=True)
    ]
    spec = ClusterSpec(
        groups=tuple(groups),
        gateway_listen=f"127.0.0.1:{port}",
        controller_listen=f"127.0.0.1:{controller_port}",
        controller_options={"strategy": strategy.value},
        num_gpus=num_gpus,
        threads_per_worker=threads,
    )
    asyncio.run(_serve(spec, Console()))


def _paired(option: str, given: Sequence[int] | None, names: Sequence[str]) -> Sequence[int]:
    """Return one number for each model: 1 where none is given.

    Raises:
        typer.BadParameter: There are not as many as models, or one is below 1.
    """
    if not given:
        return [1] * len(names)
    if len(given) != len(names):
        raise typer.BadParameter(
            f"{len(names)} --model but {len(given)} {option}: give one for each model, in the same order",
            param_hint=option,
        )
    if min(given) < 1:
        raise typer.BadParameter("must be at least 1", param_hint=option)
    return given


def _stages(strategy: Strategy, stages: int | None, workers: int) -> int:
    """Return the pipeline stages of a group.

    Raises:
        typer.BadParameter: They do not divide its workers.
    """
    count = stages or (workers if strategy is Strategy.pipeline else 1)
    if workers % count:
        raise typer.BadParameter(f"{workers} workers cannot be {count} equal stages", param_hint="--stages")
    return count


def _group(reference: str, workers: int, stages: int, copies: int, options: dict[str, str]) -> GroupSpec:
    with shown(reference) as progress:
        folder = models.resolve(reference, progress)
    name = models.served_name(reference)
    return GroupSpec(
        model_folder=folder,
        model_name=name,
        tp_size=workers // stages,
        pp_size=stages,
        copies=copies,
        options=options,
    )


async def _serve(spec: ClusterSpec, console: Console) -> None:
    """Run the cluster until a signal or the end of a process; drain after one signal, stop after two."""
    asked, again = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (again if asked.is_set() else asked).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    lines = GroupLines(spec.group_names(), console)
    cluster = LocalCluster(spec, lines.show)
    try:
        with lines:
            await first_of(cluster.start(), asked.wait())
        if not asked.is_set():
            _announce(cluster, console)
            await first_of(cluster.supervise(lambda event: console.print(f"[yellow]{escape(event)}")), asked.wait())
        console.print("draining; a second Ctrl-C stops at once")
        await first_of(cluster.stop(), again.wait())
        console.print("stopped: nothing is left running")
    except LigerError:
        console.print("[red]a service is lost; the others are stopped")
        await first_of(cluster.stop(), again.wait())
        raise
    finally:
        await cluster.kill()


def _announce(cluster: LocalCluster, console: Console) -> None:
    console.print(
        f"\n[bold green]serving[/bold green] at [bold]{cluster.gateway}[/bold]"
        f"\n[dim]controller {cluster.controller}, logs {escape(str(cluster.log_folder))}"
        f'\ntry: liger generate "Name three primary colours." --gateway {cluster.gateway}'
        "\nCtrl-C drains and stops[/dim]",
        highlight=False,
        soft_wrap=True,
    )
