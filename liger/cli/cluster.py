"""`liger status` and `liger drain`: what the controller says and does."""

import asyncio
from typing import Annotated

import typer

from liger import cluster_state
from liger.cli import options, tables
from liger.cli.account import print_json
from liger.cli.loads import loads


def status(
    as_json: options.Json = False,
    controller: options.Controller = options.DEFAULT_CONTROLLER,
) -> None:
    """Show every group and rank of a cluster."""
    state = asyncio.run(cluster_state.fetch_cluster(controller))
    if as_json:
        print_json(state)
        return
    console = tables.console()
    if not state.groups:
        console.print("no worker has registered yet")
        return
    console.print(tables.groups(state.groups))
    console.print()
    console.print(tables.ranks(state.groups))
    if (busy := loads(state.groups)).row_count:
        console.print()
        console.print(busy)
    console.print(f"\n{len(state.gateway_ids)} gateway(s), leader term {state.leader_term}")


def drain(
    group: Annotated[str, typer.Argument(help="The group to drain; see 'liger status'.")],
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Longest wait for what is in flight, in seconds.")
    ] = 30.0,
    controller: options.Controller = options.DEFAULT_CONTROLLER,
) -> None:
    """Have a group refuse new requests and finish those in flight."""
    num_finished, num_abandoned = asyncio.run(cluster_state.drain(controller, group, timeout_s))
    print(f"{group}: {num_finished} finished, {num_abandoned} given up")
