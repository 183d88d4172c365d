"""Chooses the model of a command where none is named."""

import typer

from liger.client import Client, Model
from liger.domain import Task
from liger.errors import ModelNotFoundError


def choose_model(client: Client, named: str, task: Task) -> Model:
    """Return the named model, or the only one that can do a task.

    Models that generate can embed too: beside one that is made for the task alone they do not count.

    Raises:
        ModelNotFoundError: There is none.
        typer.BadParameter: Several can, so that one must be named.
    """
    if named:
        return client.get_model(named)
    able = [model for model in client.list_models() if task in model.tasks]
    if not able:
        raise ModelNotFoundError(f"no model of this cluster can {task.name.lower()}; see 'liger status'")
    if len(able) > 1 and len(made_for_it := [model for model in able if Task.GENERATE not in model.tasks]) == 1:
        return made_for_it[0]
    if len(able) > 1:
        names = ", ".join(model.name for model in able)
        raise typer.BadParameter(f"several models can {task.name.lower()}: name one of {names}", param_hint="--model")
    return able[0]
