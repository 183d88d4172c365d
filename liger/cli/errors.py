"""How commands fail: one line on standard error, exit code 1; 2 for wrong usage or configuration, 130 after Ctrl-C."""

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from liger.errors import ConfigError, LigerError
from liger.lifecycle import EXIT_CONFIG, EXIT_FAILED


class LigerGroup(TyperGroup):
    """A group of commands whose errors are one line with their reason."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except LigerError as error:
            print(f"error: {error.message} [{error.reason}]", file=sys.stderr)
            raise typer.Exit(EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED) from error
        except KeyboardInterrupt as stop:
            print(file=sys.stderr)
            raise typer.Exit(130) from stop
        except BrokenPipeError as closed:  # the reader of a pipe has enough, as in `liger generate … | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from closed
