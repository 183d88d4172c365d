"""`liger timeline`: what ran lately on every lane."""

import asyncio
import json
import re
from pathlib import Path
from typing import Annotated, Final

import typer

from liger.cli import files, options, tables
from liger.cli.account import print_json
from liger.cluster_state import fetch_cluster
from liger.cluster_views import choose_group, fetch_timeline
from liger.errors import UnavailableError
from liger.pictures.trace import trace
from liger.spans import LaneSpan, hidden_share, lane_use

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|min)?")
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "min": 60.0, None: 1.0}


def timeline(
    *,
    last: Annotated[str, typer.Option(metavar="TIME", help="How far back, such as 2s or 500ms.")] = "2s",
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the trace is written.")] = Path("liger-trace.json"),
    model: options.Model = "",
    group: options.Group = "",
    as_json: options.Json = False,
    controller: options.Controller = options.DEFAULT_CONTROLLER,
) -> None:
    """Write what ran lately as a trace that Perfetto (ui.perfetto.dev) opens, and say how busy the lanes were."""
    last_s = seconds(last)
    name, spans = asyncio.run(_ask(controller, model, group, last_s))
    if not spans:
        raise UnavailableError(f"no segment's times are known of group {name}; send requests, then ask again")
    files.write(out, json.dumps(trace(spans)))
    share = hidden_share(spans)
    if as_json:
        print_json({"group": name, "num_spans": len(spans), "hidden_share": share, "ranks": lane_use(spans)})
        return
    console = tables.console()
    console.print(tables.lane_uses(lane_use(spans)))
    told = "no communication could be hidden" if share is None else f"{share:.0%} of the hideable communication hidden"
    console.print(f"\n{len(spans)} segments of group {name}: {told} under another batch's compute", markup=False)
    console.print(f"wrote {out}; open it in ui.perfetto.dev", markup=False)


def seconds(text: str) -> float:
    """Return a duration such as 2s, 500ms, 1min or 1.5 in seconds.

    Raises:
        typer.BadParameter: It is none.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise typer.BadParameter(f"{text!r} is no time; give one such as 2s or 500ms", param_hint="--last")
    return float(found[1]) * _SECONDS[found[2]]


async def _ask(controller: str, model: str, group: str, last_s: float) -> tuple[str, tuple[LaneSpan, ...]]:
    state = await fetch_cluster(controller)
    name = choose_group(state.groups, model=model, group=group).name
    return name, await fetch_timeline(controller, name, last_s)
