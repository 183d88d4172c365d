"""Captured CUDA graphs of what windows launch again and again: layers of small batches, of several batches at once.

A window comes in runs of steps that can be captured (embedding, attention, MLP and their exchanges, of batches that
were padded to a bucket) and the rest, which is launched eagerly: heads, gathers and draws, whose work depends on what
is asked for. A run that comes again is captured and replayed from then on.

All ranks see the same windows and so capture at the same ones. Copy engines' exchanges meet by flags, captured or not;
NCCL asks that an exchange be captured on all ranks or on none.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from worker.arenas import Arena
from worker.devices.capturer import Capturer, Graph, Relayed
from worker.inputs import BatchInputs
from worker.launching import LaunchStep, launch_each
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
        wants_steps: Tells whether each step of the window is to be timed, which graphs do not let.
        most_graphs: Kept at once.
        most_bytes: Of memory held by graphs; beyond, nothing more is captured.
    """

    def __init__(
        self,
        *,
        capturer: Capturer,
        prepare: Callable[[Slot], BatchInputs],
        arena: Callable[[int], Arena],
        wants_steps: Callable[[], bool],
        most_graphs: int,
        most_bytes: int,
    ) -> None:
        self._capturer = capturer
        self._prepare = prepare
        self._arena = arena
        self._wants_steps = wants_steps
        self._most_graphs = most_graphs
        self._most_bytes = most_bytes
        self._graphs: dict[Hashable, _Captured] = {}
        self._seen: OrderedDict[Hashable, int] = OrderedDict()

    @property
    def num_graphs(self) -> int:
        """Return how many graphs are held."""
        return len(self._graphs)

    def __call__(self, run: Run, slots: Sequence[Slot], launch: LaunchStep) -> None:
        """Launch the steps of a run."""
        own = [slots[operand] for operand in run.operands]
        key = None
        if run.may_be_captured and not self._wants_steps():
            key = self._key(run, own, is_beside=len(slots) > 1)
        captured = None if key is None else self._find(key, run, own, lambda: launch_each(run, slots, launch))
        if captured is None:
            launch_each(run, slots, launch)
            return
        captured.graph.replay()
        for slot in own:
            inputs = slot.work.inputs
            slot.work = captured.after[slot.number].copy()
            slot.work.inputs = inputs

    def _key(self, run: Run, slots: Sequence[Slot], *, is_beside: bool) -> Hashable | None:
        """Return all that a captured run would hold fixed; None if it cannot be captured.

        What was begun before the run may then be waited for in a graph.
        """
        key: list[Hashable] = [run.number, is_beside]  # exchanges go other ways beside compute
        for slot in slots:
            inputs = self._prepare(slot)
            bucket, work = inputs.attend.bucket, slot.work
            if bucket is None or work.mlp_input is not None or work.arrival is not None:
                return None
            key += (slot.number, self._arena(slot.number).version, len(inputs.positions), bucket)
            key += (inputs.token_ids is None, inputs.token_type_ids is None)
            key += (tuple(addend.data_ptr() for addend in self._relay(slot)),)
        return tuple(key)

    def _relay(self, slot: Slot) -> tuple[Tensor, ...]:
        """Make what was begun before a run one exchange that a graph can wait for; return what it will give."""
        exchanges = slot.work.exchanges
        if not exchanges:
            return ()
        if len(exchanges) > 1 or not isinstance(exchanges[0], Relayed):
            slot.work.exchanges = [self._capturer.relay(slot.number, exchanges)]
        relayed = slot.work.exchanges[0]
        assert isinstance(relayed, Relayed), "it was made one just now"
        return relayed.addends

    def _find(self, key: Hashable, run: Run, slots: Sequence[Slot], launch: Callable[[], None]) -> _Captured | None:
        """Return a captured run, captured now if it is due."""
        captured = self._graphs.get(key)
        if captured is None and self._is_due(key):
            captured = self._capture(key, run, slots, launch)
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
                if len(slot.work.exchanges) > 1:  # whose addends may lie in memory that graphs share
                    raise RuntimeError("row pieces of an exchange are under way at its end")
                slot.work.exchanges = [Relayed(each.wait()) for each in slot.work.exchanges]

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
        """Keep a graph; where there are too many, all before it go: one alone could take the others' workspaces along.

        (torch gives back the workspaces of a stream's matrix products with any graph of that stream.)
        """
        if len(self._graphs) >= self._most_graphs:
            _LOG.info("let go of %d graphs, to capture what comes again now", len(self._graphs))
            self._capturer.let_go([each.graph for each in self._graphs.values()])
            self._graphs.clear()
            self._seen.clear()
        self._graphs[key] = captured
        held = self._capturer.held_bytes / (1 << 20)
        _LOG.info("captured a run of %d steps; %d graphs hold %.0f MiB", num_steps, len(self._graphs), held)


def _kept(work: Work) -> Work:
    """Return how work stands, without what belongs to one batch."""
    kept = work.copy()
    kept.inputs = None
    return kept
