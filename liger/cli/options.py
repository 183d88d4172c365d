"""Options that several commands have."""

from typing import Annotated

import typer

Gateway = Annotated[
    str, typer.Option("--gateway", envvar="LIGER_GATEWAY", metavar="HOST:PORT", help="Where the gateway listens.")
]
Controller = Annotated[
    str,
    typer.Option("--controller", envvar="LIGER_CONTROLLER", metavar="HOST:PORT", help="Where the controller listens."),
]
Model = Annotated[str, typer.Option("--model", metavar="NAME", help="Which model; may be left out where one fits.")]
Group = Annotated[
    str, typer.Option("--group", metavar="NAME", help="Which group; may be left out where one model is served.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULT_GATEWAY = "127.0.0.1:8600"
DEFAULT_CONTROLLER = "127.0.0.1:8601"
