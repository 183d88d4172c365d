"""The `liger` command: every subcommand by name."""

from typing import Annotated

import typer

from liger import __version__
from liger.cli import cluster, demo, generate, infer, models, plan, profile, timeline, up
from liger.cli.errors import LigerGroup

app = typer.Typer(
    cls=LigerGroup,
    help="Serves large models on several devices, and calls what is served.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("generate")(generate.generate)
app.command("embed")(infer.embed)
app.command("score")(infer.score)
app.command("classify")(infer.classify)
app.command("rerank")(infer.rerank)
app.add_typer(models.app, name="models")
app.command("status")(cluster.status)
app.command("plan")(plan.plan)
app.command("timeline")(timeline.timeline)
app.command("profile")(profile.profile)
app.command("drain")(cluster.drain)
app.command("demo")(demo.demo)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"liger-plus {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve large models on several devices, and call what is served."""


if __name__ == "__main__":
    app()
