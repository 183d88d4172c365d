"""Captured CUDA graphs of what windows launch again and again: layers of small batches, of several batches at once.

A window is cut into runs of steps that can be captured (embedding, attention, MLP and their exchanges, of batches that
were padded to a bucket) and the rest, which is launched eagerly: heads, gathers and draws, whose work depends on what
is asked for. A run that comes again is captured and replayed from then on. Exchanges behind a run's last compute stay
out of it: a graph is done when all of it is, and the next compute must not wait for them.

All ranks see the same windows and so capture at the same ones; nothing depends on it, as exchanges meet by flags or by
order, captured or not.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from liger.domain import Lane, SegmentKind
from worker.arenas import Arena
from worker.communicator.base import Exchange
from worker.communicator.local import DoneExchange
from worker.communicator.pieces import whole
from worker.devices.capturer import Capturer, Graph
from worker.executor import Launch
from worker.inputs import BatchInputs
from worker.slots import Slot, Work

_LOG: Final = logging.getLogger(__name__)
_CAPTURED: Final = frozenset({SegmentKind.EMBED, SegmentKind.ATTENTION, SegmentKind.MLP, SegmentKind.ALL_REDUCE})
_LEAST_STEPS: Final = 4  # of a run; fewer are launched as fast one by one
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

    def __call__(self, launches: Sequence[Launch], launch: Callable[[Launch], None]) -> None:
        """Launch the steps of a window."""
        for is_captured, run in runs(launches):
            if is_captured:
                self._launch_run(run, launch)
            else:
                for one in run:
                    launch(one)

    def _launch_run(self, run: Sequence[Launch], launch: Callable[[Launch], None]) -> None:
        slots = list({one.slot.number: one.slot for one in run}.values())
        key = self._key(run, slots)
        captured = self._graphs.get(key) if key is not None else None
        if captured is None and key is not None and self._is_due(key):
            captured = self._capture(key, run, slots, launch)
        if captured is None:
            for one in run:
                launch(one)
            return
        self._graphs.move_to_end(key)
        for slot in slots:
            self._relay_exchanges(slot)
        captured.graph.replay()
        for slot in slots:
            inputs = slot.work.inputs
            slot.work = captured.after[slot.number].copy()
            slot.work.inputs = inputs

    def _key(self, run: Sequence[Launch], slots: Sequence[Slot]) -> Hashable | None:
        """Return all that a captured run would hold fixed; None if it cannot be captured."""
        buckets = []
        for slot in slots:
            inputs = self._prepare(slot)
            bucket, work = inputs.attend.bucket, slot.work
            if bucket is None or work.mlp_input is not None or work.arrival is not None:
                return None
            kind = slot.start.kind, len(inputs.positions), inputs.token_ids is None, inputs.token_type_ids is None
            buckets.append((slot.number, self._arena(slot.number).version, kind, bucket, len(work.exchanges)))
        steps = tuple((one.slot.number, one.slot.position + one.step.segment, one.step.piece) for one in run)
        return steps, tuple(buckets)

    def _is_due(self, key: Hashable) -> bool:
        """Count a run that is not captured; return whether it is to be now."""
        count = self._seen.pop(key, 0)
        self._seen[key] = count + 1
        if len(self._seen) > _MOST_KEYS:
            self._seen.popitem(last=False)
        return count == _SEEN_BEFORE and self._capturer.held_bytes < self._most_bytes

    def _capture(
        self, key: Hashable, run: Sequence[Launch], slots: Sequence[Slot], launch: Callable[[Launch], None]
    ) -> _Captured | None:
        before = {slot.number: slot.work.copy() for slot in slots}

        def launch_run() -> None:
            for one in run:
                launch(one)
            for slot in slots:  # what is still under way ends within the graph
                slot.work.exchanges = [DoneExchange(*exchange.wait()) for exchange in slot.work.exchanges]

        for slot in slots:
            self._relay_exchanges(slot)
        try:
            graph = self._capturer.capture(launch_run)
        except RuntimeError as error:
            _LOG.warning("a run of %d steps cannot be captured and stays eager: %s", len(run), error)
            for slot in slots:
                slot.work = before[slot.number]
            return None
        captured = _Captured(graph, {slot.number: _kept(slot.work) for slot in slots})
        for slot in slots:
            slot.work = before[slot.number]
        self._keep(key, captured, len(run))
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


def runs(launches: Sequence[Launch]) -> Iterator[tuple[bool, Sequence[Launch]]]:
    """Yield the steps of a window in order, in runs that may be captured and others."""
    first = 0
    for is_inner, stop in _spans(launches):
        run = launches[first:stop]
        last = max((place for place, one in enumerate(run) if one.segment.lane is Lane.COMPUTE), default=-1) + 1
        if is_inner and last >= _LEAST_STEPS:
            yield True, run[:last]
            run = run[last:]
        if run:
            yield False, run
        first = stop


def _spans(launches: Sequence[Launch]) -> Iterator[tuple[bool, int]]:
    """Yield whether the next steps are of kinds that may be captured, and where they stop."""
    for place, one in enumerate(launches):
        is_inner = one.segment.kind in _CAPTURED
        if place + 1 == len(launches) or (launches[place + 1].segment.kind in _CAPTURED) != is_inner:
            yield is_inner, place + 1


def _kept(work: Work) -> Work:
    """Return how work stands, without what belongs to one batch."""
    kept = work.copy()
    kept.inputs = None
    return kept
