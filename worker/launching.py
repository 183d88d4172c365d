"""How the steps of a window are launched: one after another here, all at once by captured graphs (`worker.graphs`)."""

from collections.abc import Callable, Sequence
from typing import Protocol

from worker.slots import Slot
from worker.templates import Planned, Run

LaunchStep = Callable[[Planned, Slot], None]
"""Launches one step of a batch in its slot."""


class LaunchAll(Protocol):
    """Launches the steps of a window in their order."""

    @property
    def num_graphs(self) -> int:
        """How many captured graphs are held."""
        ...

    def __call__(self, run: Run, slots: Sequence[Slot], launch: LaunchStep) -> None:
        """Launch a run of steps of batches in some slots, by operand: one by one through `launch`, or all at once."""
        ...


class LaunchEach:
    """Launches one step after another. Implements `LaunchAll`."""

    num_graphs = 0

    def __call__(self, run: Run, slots: Sequence[Slot], launch: LaunchStep) -> None:
        """Launch the steps of a run."""
        launch_each(run, slots, launch)


def launch_each(run: Run, slots: Sequence[Slot], launch: LaunchStep) -> None:
    """Launch one step of a run after another."""
    for planned in run.steps:
        launch(planned, slots[planned.step.operand])
