"""How tasks share the ranks: by weights, in time, so that none starves (weighted fair queueing by virtual time).

A task's virtual time grows by the ranks' time that it took, over its weight. What is behind goes first: when a batch is
formed (what is in flight counts as taken), and in every window, whose primary is the batch of the task that is furthest
behind. A task that had no work does not save time up: it begins level with the one that is furthest behind. Inside
generation, prefill and decode share in the same way with equal weights.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final, Generic, TypeVar

from controller.core.batch import Batch
from controller.core.pace import Pace
from liger.domain import BatchKind, Task

KeyT = TypeVar("KeyT")

_GENERATION: Final = {BatchKind.PREFILL: 1.0, BatchKind.DECODE: 1.0}


class VirtualTime(Generic[KeyT]):
    """What each of some classes has had, over its weight.

    Args:
        weights: Above 0.
    """

    def __init__(self, weights: Mapping[KeyT, float]) -> None:
        self.weights = dict(weights)
        self.taken = dict.fromkeys(weights, 0.0)  # ns of the ranks' time, not over the weight
        self._served = dict.fromkeys(weights, 0.0)
        self._due = dict.fromkeys(weights, 0.0)  # what batches in flight will still take, as predicted
        self._active: set[KeyT] = set()
        self._floor = 0.0  # where a class begins that had no work

    def wake(self, active: Collection[KeyT]) -> None:
        """Tell which classes have work; one that had none begins level with the furthest behind of those that had."""
        fresh = set(active) - self._active
        if self._active:
            self._floor = max(self._floor, min(self._served[key] for key in self._active))
        if not active:  # all are level again, whatever they had
            self._floor = max(self._served.values())
        for key in fresh:
            self._served[key] = max(self._served[key], self._floor)
        self._active = set(active)

    def behind(self, key: KeyT) -> float:
        """Return what a class has had; the least is furthest behind."""
        return self._served[key]

    def behind_with_due(self, key: KeyT) -> float:
        """Return what it will have had once its batches in flight are done."""
        return self._served[key] + self._due[key]

    def expect(self, key: KeyT, ns: float) -> None:
        """Count what a batch in flight will take; negative when it has taken it."""
        self._due[key] += ns / self.weights[key]

    def serve(self, key: KeyT, ns: float) -> None:
        """Count what a class took; negative where less was taken than predicted."""
        self._served[key] += ns / self.weights[key]
        self.taken[key] += ns


class Sharing:
    """The tasks of one group in one epoch.

    Args:
        weights: Of every task, above 0.
        pace: Predicts what batches take.
    """

    def __init__(self, weights: Mapping[Task, float], pace: Pace) -> None:
        self._tasks = VirtualTime(weights)
        self._kinds = VirtualTime(_GENERATION)
        self._pace = pace

    @property
    def weights(self) -> Mapping[Task, float]:
        """Weights by task."""
        return self._tasks.weights

    @property
    def taken_ns(self) -> Mapping[Task, float]:
        """The ranks' time that each task took."""
        return self._tasks.taken

    def wake(self, tasks: Collection[Task], kinds: Collection[BatchKind]) -> None:
        """Tell which tasks have work, and of generation which kinds of batches."""
        self._tasks.wake(tasks)
        self._kinds.wake(kinds)

    def in_turn(self, tasks: Collection[Task]) -> list[Task]:
        """Return tasks, furthest behind first, as if what is in flight was done."""
        return sorted(tasks, key=lambda task: (self._tasks.behind_with_due(task), task))

    def kinds_in_turn(self) -> list[BatchKind]:
        """Return the kinds of generation's batches, furthest behind first; prefill first if they are level."""
        return sorted(_GENERATION, key=lambda kind: (self._kinds.behind_with_due(kind), kind))

    def behind_with_due(self, task: Task) -> float:
        """Return what a task will have had once its batches in flight are done."""
        return self._tasks.behind_with_due(task)

    def formed(self, batch: Batch) -> None:
        """Count a batch that is in flight from now on."""
        batch.predicted_ns = self._pace.batch_ns(batch.kind, batch.num_tokens)
        self._expect(batch, batch.predicted_ns)

    def published(self, batch: Batch, share: float) -> float:
        """Count a window's part of a batch as predicted, and return that.

        Args:
            batch: In flight.
            share: How much of its forward is in the window, 0 to 1.
        """
        ns = share * batch.predicted_ns
        self._expect(batch, -ns)
        self._serve(batch, ns)
        return ns

    def acknowledged(self, batch: Batch, share: float, predicted_ns: float, measured_ns: float) -> None:
        """Put right what `published` counted, by what the ranks measured."""
        if measured_ns > 0:
            self._serve(batch, measured_ns - predicted_ns)
            self._pace.observe(batch.kind, batch.num_tokens, share, measured_ns)

    def primary_first(self, in_flight: Sequence[Batch]) -> list[Batch]:
        """Return batches in flight, oldest first, in the order in which they deserve the lanes.

        Ranks take batches in the order of their ids, so those that they do not know yet change ids among themselves.
        """
        ordered = sorted(in_flight, key=lambda batch: (*self._place(batch), batch.batch_id))
        unknown = [batch for batch in ordered if not batch.is_published]
        for batch, batch_id in zip(unknown, sorted(batch.batch_id for batch in unknown), strict=True):
            batch.start = replace(batch.start, batch_id=batch_id)
        return ordered

    def _place(self, batch: Batch) -> tuple[float, float]:
        task = min(self._tasks.behind(task) for task in batch.tasks)
        return task, self._kinds.behind(batch.kind) if batch.kind in _GENERATION else 0.0

    def _expect(self, batch: Batch, ns: float) -> None:
        for task, part in batch.tasks.items():
            self._tasks.expect(task, ns * part)
        if batch.kind in _GENERATION:
            self._kinds.expect(batch.kind, ns)

    def _serve(self, batch: Batch, ns: float) -> None:
        for task, part in batch.tasks.items():
            self._tasks.serve(task, ns * part)
        if batch.kind in _GENERATION:
            self._kinds.serve(batch.kind, ns)
