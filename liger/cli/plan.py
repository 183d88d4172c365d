"""`liger plan`: how made-up batches would run, without running them."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from liger.cli import files, options, tables
from liger.cli.account import print_json
from liger.cluster_state import GroupState, fetch_cluster
from liger.cluster_views import AskedBatch, choose_group, fetch_plan
from liger.domain import BatchKind
from liger.errors import UnavailableError
from liger.pictures.lanes_svg import lanes_svg
from liger.pictures.lanes_text import lane_rows
from liger.pictures.plan import PlanAccount, account
from liger.views import Explained

_MAX_UINT32: Final = 2**32 - 1
_PIPED_WIDTH: Final = 120


def plan(
    *,
    tokens: Annotated[
        str, typer.Option(metavar="N,N,…", help="Tokens of each batch, oldest first, such as 512,512,256.")
    ],
    model: options.Model = "",
    group: options.Group = "",
    kinds: Annotated[
        str,
        typer.Option(
            metavar="KIND,…",
            help="What each batch does: encode, prefill or decode; one for all or one each. Left out, prefill for "
            "models that generate and encode for others.",
        ),
    ] = "",
    context: Annotated[
        int, typer.Option(min=0, max=_MAX_UINT32, help="Tokens behind each token of prefill and decode batches.")
    ] = 0,
    depth: Annotated[
        int, typer.Option(min=0, max=_MAX_UINT32, help="Batches in flight at most; 0 takes the group's own.")
    ] = 0,
    svg: Annotated[Path, typer.Option(metavar="FILE", help="Where the picture is written.")] = Path("liger-plan.svg"),
    as_json: options.Json = False,
    controller: options.Controller = options.DEFAULT_CONTROLLER,
) -> None:
    """Show how the planner would lay batches on the lanes of a running group."""
    asked = _batches(tokens, kinds, context)
    found, explained, alone = asyncio.run(_ask(controller, model, group, asked, depth))
    if not explained.makespan_ns:
        raise UnavailableError(f"group {found.name} has no durations to plan with; see 'liger profile'")
    told = account(explained, alone)
    files.write(svg, lanes_svg(explained.spans, f"{found.model}: {told.headline}"))
    if as_json:
        print_json({"group": found.name, "plan": explained, "account": told})
    else:
        _show(found, explained, told)
    print(f"wrote {svg}", file=sys.stderr)


def _batches(tokens: str, kinds: str, context: int) -> list[AskedBatch]:
    counts = [_count(each) for each in tokens.split(",")]
    named = [_kind(each) for each in kinds.split(",")] if kinds else [None]
    if len(named) not in {1, len(counts)}:
        raise typer.BadParameter(
            f"{len(counts)} batches take one kind, or {len(counts)}, not {len(named)}", param_hint="--kinds"
        )
    named = named * len(counts) if len(named) == 1 else named
    return [
        AskedBatch(kind=kind, num_tokens=count, context=0 if kind is BatchKind.ENCODE else context)
        for kind, count in zip(named, counts, strict=True)
    ]


def _count(text: str) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= _MAX_UINT32:
        raise typer.BadParameter(
            f"{text!r} is no number of tokens; give one for each batch, such as 512,512,256", param_hint="--tokens"
        )
    return int(text)


def _kind(text: str) -> BatchKind:
    try:
        return BatchKind[text.strip().upper()]
    except KeyError:
        known = ", ".join(kind.name.lower() for kind in BatchKind)
        raise typer.BadParameter(f"{text!r} is none of {known}", param_hint="--kinds") from None


async def _ask(
    controller: str, model: str, group: str, batches: Sequence[AskedBatch], depth: int
) -> tuple[GroupState, Explained, list[Explained]]:
    """Return the group, how the batches would run together, and how each would run alone."""
    state = await fetch_cluster(controller)
    found = choose_group(state.groups, model=model, group=group)
    together = await fetch_plan(controller, found.name, batches, depth)
    kinds = {batch: await fetch_plan(controller, found.name, [batch], 1) for batch in dict.fromkeys(batches)}
    return found, together, [kinds[batch] for batch in batches]


def _show(found: GroupState, explained: Explained, told: PlanAccount) -> None:
    console = tables.console()
    width = console.width if console.is_terminal else _PIPED_WIDTH
    console.print(f"group {found.name}, strategy {found.strategy}, cost table {explained.cost_version}\n", markup=False)
    for row in lane_rows(explained.spans, width):
        console.print(row, soft_wrap=True)
    console.print(f"\n{told.headline}", markup=False)
    for line in told.lanes:
        console.print(line, markup=False)
    console.print()
    console.print(tables.planned(told.batches))
