"""`liger profile`: what a group's ranks measured of their model."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from liger.cli import files, options, profile_tables, tables
from liger.cli.account import print_json
from liger.cli.progress import shown
from liger.cluster_state import fetch_cluster
from liger.cluster_views import await_epoch, choose_group, fetch_profile, renew_profile
from liger.pictures.curves import curves_svg
from liger.pictures.profile import profile_curves
from liger.profile import ProfileTable
from liger.views import ProfileView


def profile(
    model: options.Model = "",
    group: options.Group = "",
    *,
    svg: Annotated[Path, typer.Option(metavar="FILE", help="Where the picture is written.")] = Path(
        "liger-profile.svg"
    ),
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Let the ranks measure anew first: the group finishes what is in flight and begins a new epoch.",
        ),
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="With --fresh: longest wait for what is in flight, in seconds.")
    ] = 30.0,
    as_json: options.Json = False,
    controller: options.Controller = options.DEFAULT_CONTROLLER,
) -> None:
    """Show how long segments and exchanges take on a group's ranks, as a table and a picture."""
    name, view = asyncio.run(_ask(controller, model, group, timeout_s if fresh else None))
    if view.table is not None:
        _draw(name, view.table, svg)
    if as_json:
        print_json({"group": name, **_plain(view)})
    else:
        _show(name, view)
    if view.table is not None:
        print(f"wrote {svg}", file=sys.stderr)


async def _ask(controller: str, model: str, group: str, renew_limit_s: float | None) -> tuple[str, ProfileView]:
    state = await fetch_cluster(controller)
    name = choose_group(state.groups, model=model, group=group).name
    if renew_limit_s is not None:
        await _renew(controller, name, renew_limit_s)
    return name, await fetch_profile(controller, name)


async def _renew(controller: str, name: str, limit_s: float) -> None:
    with shown(name) as tell:
        tell("finishing what is in flight", 0.0)
        renewed = await renew_profile(controller, name, limit_s)
        await await_epoch(controller, name, after=renewed.ended_epoch, tell=tell)
    if renewed.num_abandoned:
        print(f"{name}: {renewed.num_abandoned} requests were given up", file=sys.stderr)


def _plain(view: ProfileView) -> dict[str, object]:
    return {"table": view.table, "corrections": view.corrections, "prediction_error": view.prediction_error}


def _draw(name: str, table: ProfileTable, svg: Path) -> None:
    picture = curves_svg(
        profile_curves(table),
        title=f"{name}: durations of segments and exchanges",
        x_label="tokens of the batch",
        y_label="milliseconds",
    )
    files.write(svg, picture)


def _show(name: str, view: ProfileView) -> None:
    console = tables.console()
    if view.table is None:
        console.print(f"group {name} has no profile: its strategy needs none", markup=False)
        return
    console.print(f"{view.table.key}\n", markup=False)
    for table in profile_tables.of(view):
        console.print(table)
        console.print()
    error = "not known yet" if view.prediction_error is None else f"{view.prediction_error:.1%}"
    console.print(f"error of predicted durations (median): {error}")
