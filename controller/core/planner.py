"""Decides what the next window holds: from the batches in flight and their positions to a pattern.

The search (`interleave`) works on sizes rounded to buckets and on times rounded to parts of a millisecond or more, and
segments are named by their distance from where a batch stands; so its results are few, and cached. A cold one is
searched for only while the ranks have work for longer than the search takes; else the primary goes on alone, or, where
it has come before, a hasty one does, and the search comes later, off the critical path (`next_cold`, `find`, `keep`).
So it is with one that was found for costs which have changed since: its order is still good.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Final

from controller.core.batch import Batch
from controller.core.cost_model import CostModel, Shape
from controller.core.interleave import Interleaver
from controller.core.plan import (
    Cut,
    Forwards,
    Plan,
    Strategy,
    Topology,
    make_plan,
    one_stage_each,
    whole_forward,
)
from controller.core.situation import InterleaveOptions, Situation, View, bucketed, first_alike, rounded
from liger.domain import BatchKind

MAX_CACHED: Final = 4096  # cuts
MAX_COLD: Final = 64  # keys that wait for their search
SEARCH_NS: Final = 80e6  # several times what a search takes (bench.planner): ranks may share the controller's cores
HASTE_NS: Final = 12e6  # likewise a hasty one

_PARTS_OF_A_LAYER: Final = 4  # times are rounded to such parts of the primary's layer

Key = tuple[tuple[View, ...], tuple[float, ...], Situation]
"""Batches in flight, when lanes are free, what is planned for."""


class Planner:
    """Plans windows for one group; deterministic.

    Args:
        forwards: The segments that each kind of batch runs, as the ranks reported them.
        strategy: How batches share the ranks.
        topology: How the ranks are laid out.
        costs: Predicts durations; without it the interleaved strategy runs one batch at a time.
        options: Bounds of interleaved windows.
    """

    def __init__(
        self,
        forwards: Forwards,
        *,
        strategy: Strategy = Strategy.TENSOR,
        topology: Topology = Topology(),  # noqa: B008 - a frozen value
        costs: CostModel | None = None,
        options: InterleaveOptions = InterleaveOptions(),  # noqa: B008 - a frozen value
    ) -> None:
        self.forwards = forwards
        self.topology = topology
        self.costs = costs
        self.is_ordered = strategy is Strategy.INTERLEAVED  # batches go on in the order in which they are given
        self._strategy = strategy
        self._interleaver = Interleaver(forwards, topology, costs, options) if costs is not None else None
        self._whole = cache(lambda kind, position: whole_forward(forwards, topology, kind, position))
        self._staged = cache(lambda batches: one_stage_each(forwards, topology, batches))
        self._cuts: OrderedDict[Key, Cut] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()  # missed once
        self._cold: OrderedDict[Key, None] = OrderedDict()  # missed again: a search is due
        self._ready: dict[int, float] = {}  # by batch id: ns after the last window until it may go on
        self._free: tuple[float, ...] = ()  # likewise for lanes
        self._canonical = cache(lambda kind, *place: first_alike(forwards[kind], *place))
        self._ahead = cache(self._num_ahead)
        self._unit = cache(self._unit_ns)

    def plan(
        self,
        in_flight: Sequence[Batch],
        *,
        backlog_ns: float = 0.0,
        is_idle: bool = False,
        is_pressed: bool = False,
    ) -> Plan:
        """Plan the next window of the batches in flight, the primary first; at least one.

        Args:
            in_flight: Batches with segments left.
            backlog_ns: How long the ranks have work for; a search must fit in.
            is_idle: Whether the ranks have done all that was published.
            is_pressed: Whether more waits than fits in flight.
        """
        if self._strategy is Strategy.PIPELINE:
            return make_plan(self._staged(tuple((batch.kind, batch.position) for batch in in_flight)), in_flight)
        if self._strategy is Strategy.TENSOR or self._interleaver is None:
            return make_plan(self._whole(in_flight[0].kind, in_flight[0].position), in_flight)
        if is_idle:
            self._ready, self._free = {}, ()
        plan = make_plan(self._cached(self._key(in_flight, is_pressed=is_pressed), backlog_ns), in_flight)
        self._carry(plan, in_flight)
        return plan

    def next_cold(self) -> Key | None:
        """Return the latest that a window was planned for without the search that it deserves, or None."""
        return next(reversed(self._cold), None)

    def find(self, key: Key) -> Cut:
        """Search for a window; changes nothing, so that it may run on another thread."""
        assert self._interleaver is not None, "only interleaved windows are searched for"
        version = self._version()
        return replace(self._interleaver.cut(*key), version=version)

    def keep(self, key: Key, cut: Cut) -> None:
        """Keep what was found."""
        self._cuts[key] = cut
        self._cuts.move_to_end(key)
        self._cold.pop(key, None)
        self._seen.pop(key, None)
        if len(self._cuts) > MAX_CACHED:
            self._cuts.popitem(last=False)

    def _cached(self, key: Key, backlog_ns: float) -> Cut:
        cut = self._cuts.get(key)
        if cut is not None and not cut.is_hasty and cut.version == self._version():
            self._cuts.move_to_end(key)
            return cut
        views, free, situation = key
        if backlog_ns >= SEARCH_NS or (len(views) == 1 and cut is None):
            cut = self.find(key)
            self.keep(key, cut)
            return cut
        comes_again = self._missed(key)
        if cut is not None:
            return cut
        if backlog_ns < HASTE_NS or not comes_again:
            return self._cached((views[:1], free, Situation.USUAL), backlog_ns)
        assert self._interleaver is not None, "interleaved windows have costs"
        hasty = self._interleaver.quick_cut(views, free, situation)
        self._cuts[key] = cut = replace(hasty, version=self._version(), is_hasty=True)
        return cut

    def _missed(self, key: Key) -> bool:
        """Note that a search is due, from the second time on: what never comes again is not worth one.

        Returns:
            Whether it was missed before.
        """
        comes_again = key in self._seen
        known, bound = (self._cold, MAX_COLD) if comes_again else (self._seen, MAX_CACHED)
        known[key] = None
        known.move_to_end(key)
        if len(known) > bound:
            known.popitem(last=False)
        return comes_again

    def _key(self, in_flight: Sequence[Batch], *, is_pressed: bool) -> Key:
        assert self.costs is not None, "interleaved windows have costs"
        shapes = [bucketed(batch.shape) for batch in in_flight]
        unit_ns = self._unit(shapes[0], self.costs.version)
        views = tuple(
            View(shape, self._place(shape, shapes[0], batch), rounded(self._ready.get(batch.batch_id, 0.0), unit_ns))
            for shape, batch in zip(shapes, in_flight, strict=True)
        )
        free = tuple(rounded(each, unit_ns) for each in self._free) or (0.0,) * (2 * self.topology.pp_size)
        situation = Situation.LONE if len(views) == 1 and not is_pressed else Situation.USUAL
        kinds = {shape.kind for shape in shapes}
        if BatchKind.DECODE in kinds and len(kinds) > 1:
            return views, free, Situation.MIXED
        return views, free, Situation.PRESSED if is_pressed else situation

    def _place(self, shape: Shape, primary: Shape, batch: Batch) -> int:
        return self._canonical(batch.kind, batch.position, self._ahead(shape, primary, self._version()))

    def _unit_ns(self, shape: Shape, version: int) -> float:  # noqa: ARG002 - names the costs in the cache
        assert self._interleaver is not None, "interleaved windows have costs"
        return max(self._interleaver.layer_ns(shape) / _PARTS_OF_A_LAYER, 1.0)

    def _num_ahead(self, shape: Shape, primary: Shape, version: int) -> int:  # noqa: ARG002 - names the costs in the cache
        assert self._interleaver is not None, "interleaved windows have costs"
        return self._interleaver.num_ahead(shape, primary)

    def _version(self) -> int:
        return self.costs.version if self.costs is not None else 0

    def _carry(self, plan: Plan, in_flight: Sequence[Batch]) -> None:
        """Keep when batches and lanes are ready after this window, for the next one."""
        cut = plan.cut
        passed = {
            batch.batch_id: max(self._ready.get(batch.batch_id, 0.0) - cut.predicted_ns, 0.0) for batch in in_flight
        }
        for batch, ready in zip(plan.batches, cut.ready, strict=True):
            passed[batch.batch_id] = ready
        self._ready, self._free = passed, cut.free
