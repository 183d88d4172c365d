"""What a rank is told and what it answers when an epoch begins, and what the session asks of its engine. No torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from liger.domain import BatchKind, Fence, ModelCard
from liger.profile import ProfileTable
from liger.schedule import Pattern, Segment, Window, WindowOutcome

Progress = Callable[[str, float], None]
"""Takes what is being done and the share of it that is done, 0 to 1; called from any thread."""
ReadOutcome = Callable[[], WindowOutcome]
"""Tells what came of a window, waiting until the device has done with it; raises LigerError if it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlan:
    """What a rank is told."""

    fence: Fence
    tp_rank: int
    tp_size: int
    pp_stage: int
    pp_size: int
    rendezvous_endpoint: str  # host:port of rank 0's store
    num_slots: int
    max_batch_tokens: int
    num_rows: int  # of the sequence table
    stage_layers: tuple[int, ...]  # layers of each stage

    @property
    def rank(self) -> int:
        """This rank's place among all of the group."""
        return self.pp_stage * self.tp_size + self.tp_rank

    @property
    def world_size(self) -> int:
        """All ranks of the group."""
        return self.tp_size * self.pp_size

    @property
    def layers(self) -> range:
        """The layers of this rank's stage."""
        start = sum(self.stage_layers[: self.pp_stage])
        return range(start, start + self.stage_layers[self.pp_stage])


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What a rank answers."""

    forwards: Mapping[BatchKind, tuple[Segment, ...]]
    num_blocks: int
    block_size: int
    weight_bytes: int
    kv_bytes: int


class RankEngine(Protocol):
    """What computes on this rank. Calls block; `join`, `profile`, `run` and `leave` come one at a time."""

    @property
    def card(self) -> ModelCard:
        """The model it holds."""
        ...

    @property
    def rendezvous_endpoint(self) -> str:
        """host:port where other ranks find this one if it becomes rank 0."""
        ...

    @property
    def device(self) -> str:
        """What it computes on, for people."""
        ...

    def join(self, plan: JoinPlan, progress: Progress) -> Joined:
        """Load weights and find the other ranks.

        Raises:
            LigerError: The model cannot be loaded, or the others did not come.
        """
        ...

    def profile(self, progress: Progress, *, fresh: bool) -> ProfileTable:
        """Measure segments, exchanges and co-runs together with the other ranks; comes before the first `run`.

        Args:
            progress: Takes what is being done.
            fresh: Measures even if all ranks have a profile on disk.

        Raises:
            LigerError: Another rank failed, or no epoch runs.
        """
        ...

    @property
    def runs_ahead(self) -> bool:
        """Whether `run` returns before the device has done with a window; outcomes are then read on another thread."""
        ...

    def run(self, pattern: Pattern, window: Window) -> ReadOutcome:
        """Launch a window; what it returns tells the outcome, to be called once, in the order of windows.

        Raises:
            LigerError: Another rank failed, or the window is not right.
        """
        ...

    def abort(self) -> None:
        """Make a `join`, `profile` or `run` under way end with an error. May be called from another thread."""
        ...

    def leave(self) -> None:
        """Let go of the epoch: connections, keys and values, sequences; weights stay."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...
