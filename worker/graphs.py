"""Captured CUDA graphs of what windows launch again and again: layers of small batches, of several batches at once.

A window comes in runs of steps that can be captured (embedding, attention, MLP and their exchanges, of batches that
were padded to a bucket) and the rest, which is launched eagerly: heads, gathers and draws, whose work depends on what
is asked for. A run that comes again is captured and replayed from then on.

All ranks see the same windows and so capture at the same ones; nothing depends on it, as exchanges meet by flags or by
order, captured or not.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from worker.arenas import Arena
from worker.communicator.base import Exchange
from worker.communicator.local import DoneExchange
from worker.communicator.pieces import whole
from worker.devices.capturer import Capturer, Graph
from worker.inputs import BatchInputs
from worker.launching import LaunchStep
from worker.slots import Slot, Work
from worker.templates import Run

_LOG: Final = logging.getLogger(__name__)
_SEEN_BEFORE: Final = 1  # how often a run was launched eagerly before it is captured
_MOST_KEYS: Final = 4096  # runs whose number of launches is remembered


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: Graph
    after: dict[int, Work]  # by slot: how its work stands behind the run


class GraphedLaunches:
    """Replays what was captured. Implements `LaunchAll`.

    Args:
        capturer: Captures.
        prepare: Brings a batch's inputs to the device.
        arena: The memory of a slot.
        most_graphs: Kept at once; the longest unused go first.
        most_bytes: Of memory held by graphs; beyond, nothing more is captured.
    """

    def __init__(
        self,
        *,
        capturer: Capturer,
        prepare: Callable[[Slot], BatchInputs],
        arena: Callable[[int], Arena],
        most_graphs: int,
        most_bytes: int,
    ) -> None:
        self._capturer = capturer
        self._prepare = prepare
        self._arena = arena
        self._most_graphs = most_graphs
        self._most_bytes = most_bytes
        self._graphs: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._seen: OrderedDict[Hashable, int] = OrderedDict()

    @property
    def num_graphs(self) -> int:
        """Return how many graphs are held."""
        return len(self._graphs)

    def __call__(self, run: Run, slots: Sequence[Slot], launch: LaunchStep) -> None:
        """Launch the steps of a run."""
        own = [slots[operand] for operand in run.operands]
        key = self._key(run, own, is_beside=len(slots) > 1) if run.may_be_captured else None
        captured = None if key is None else self._find(key, run, own, lambda: _launch_each(run, slots, launch))
        if captured is None:
            _launch_each(run, slots, launch)
            return
        captured.graph.replay()
        for slot in own:
            inputs = slot.work.inputs
            slot.work = captured.after[slot.number].copy()
            slot.work.inputs = inputs

    def _key(self, run: Run, slots: Sequence[Slot], *, is_beside: bool) -> Hashable | None:
        """Return all that a captured run would hold fixed; None if it cannot be captured."""
        key: list[Hashable] = [run.number, is_beside]  # exchanges go other ways beside compute
        for slot in slots:
            inputs = self._prepare(slot)
            bucket, work = inputs.attend.bucket, slot.work
            if bucket is None or work.mlp_input is not None or work.arrival is not None:
                return None
            key += (slot.number, self._arena(slot.number).version, len(inputs.positions), bucket, len(work.exchanges))
            key += (inputs.token_ids is None, inputs.token_type_ids is None)
        return tuple(key)

    def _find(self, key: Hashable, run: Run, slots: Sequence[Slot], launch: Callable[[], None]) -> _Captured | None:
        """Return a captured run, captured now if it is due; what was begun before it may then be waited for in it."""
        captured = self._graphs.get(key)
        if captured is None and not self._is_due(key):
            return None
        for slot in slots:
            self._relay_exchanges(slot)
        if captured is None:
            return self._capture(key, run, slots, launch)
        self._graphs.move_to_end(key)
        return captured

    def _is_due(self, key: Hashable) -> bool:
        """Count a run that is not captured; return whether it is to be now."""
        count = self._seen.pop(key, 0)
        self._seen[key] = count + 1
        if len(self._seen) > _MOST_KEYS:
            self._seen.popitem(last=False)
        return count == _SEEN_BEFORE and self._capturer.held_bytes < self._most_bytes

    def _capture(self, key: Hashable, run: Run, slots: Sequence[Slot], launch: Callable[[], None]) -> _Captured | None:
        before = {slot.number: slot.work.copy() for slot in slots}

        def launch_run() -> None:
            launch()
            for slot in slots:  # what is still under way ends within the graph
                slot.work.exchanges = [DoneExchange(*exchange.wait()) for exchange in slot.work.exchanges]

        captured = None
        try:
            graph = self._capturer.capture(launch_run)
        except RuntimeError as error:
            _LOG.warning("a run of %d steps cannot be captured and stays eager: %s", len(run.steps), error)
        else:
            captured = _Captured(graph, {slot.number: _kept(slot.work) for slot in slots})
            self._keep(key, captured, len(run.steps))
        for slot in slots:
            slot.work = before[slot.number]
        return captured

    def _keep(self, key: Hashable, captured: _Captured, num_steps: int) -> None:
        self._graphs[key] = captured
        if len(self._graphs) > self._most_graphs:
            self._graphs.popitem(last=False)
        held = self._capturer.held_bytes / (1 << 20)
        _LOG.info("captured a run of %d steps; %d graphs hold %.0f MiB", num_steps, len(self._graphs), held)

    def _relay_exchanges(self, slot: Slot) -> None:
        """Let a graph wait for what was begun before it."""
        exchanges = slot.work.exchanges
        if not all(isinstance(exchange, DoneExchange) for exchange in exchanges):
            slot.work.exchanges = [self._capturer.relay(slot.number, _Joined(tuple(exchanges)))]


class _Joined:
    """The exchanges of row pieces as one. Implements `Exchange`."""

    ended_ns = None
    span = None

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self._exchanges = exchanges

    def wait(self) -> tuple[Tensor, ...]:
        """Wait for all pieces and return the whole addends."""
        return whole([found for exchange in self._exchanges if (found := exchange.wait())])


def _launch_each(run: Run, slots: Sequence[Slot], launch: LaunchStep) -> None:
    for planned in run.steps:
        launch(planned, slots[planned.step.operand])


def _kept(work: Work) -> Work:
    """Return how work stands, without what belongs to one batch."""
    kept = work.copy()
    kept.inputs = None
    return kept
