"""A planner driven window by window, as the scheduler does, and what the ranks would make of its windows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from controller.core.batch import Batch
from controller.core.cost_model import CostModel, Shape
from controller.core.plan import Forwards, Plan, Strategy, Topology
from controller.core.planner import Planner
from controller.core.situation import InterleaveOptions
from liger.digest import takes_part
from liger.domain import BatchKind, Lane, SegmentKind
from liger.profile import ProfileTable
from liger.schedule import BatchStart, DecodeRows, EncodeRows, PrefillRows, Segment, Step
from tests.support.forwards import FENCE, forwards_of, window_of
from worker.guard import WindowGuard

DEPTH = 3


def batch_of(number: int, kind: BatchKind, num_tokens: int, *, context: int = 0, slot: int = 0) -> Batch:
    """Return a batch whose shape is as asked."""
    rows: EncodeRows | PrefillRows | DecodeRows
    match kind:
        case BatchKind.ENCODE:
            rows = EncodeRows(num_tokens=(num_tokens,), token_ids=(), token_type_ids=(), outputs=())
        case BatchKind.PREFILL:
            rows = PrefillRows(rows=(0,), num_tokens=(num_tokens,), starts=(context,), token_ids=(), samples=(True,))
        case BatchKind.DECODE:
            rows = DecodeRows(rows=tuple(range(num_tokens)), positions=(context,) * num_tokens)
    return Batch(start=BatchStart(batch_id=number, kind=kind, slot=slot, rows=rows), num_tokens=num_tokens)


def planner_of(
    profile: ProfileTable, *stage_layers: int, tp_size: int = 2, options: InterleaveOptions | None = None
) -> Planner:
    """Return an interleaving planner for a language model with so many layers in each stage."""
    topology = Topology(tp_size=tp_size, pp_size=len(stage_layers))
    costs = CostModel(profile)
    return Planner(
        forwards_of(*stage_layers),
        strategy=Strategy.INTERLEAVED,
        topology=topology,
        costs=costs,
        options=options or InterleaveOptions(),
    )


@dataclass(frozen=True)
class Driven:
    """What a planner made of batches."""

    plans: tuple[Plan, ...]
    batches: tuple[Batch, ...]
    forwards: Forwards
    topology: Topology

    def steps(self) -> list[tuple[Plan, Step, Batch, Segment, int]]:
        """Return all launches in order: (window's plan, step, batch, segment, its place in the batch's forward)."""
        return [
            (plan, step, batch, self.forwards[batch.kind][place], place)
            for plan in self.plans
            for step in plan.pattern.steps
            for batch in [plan.batches[step.operand]]
            for place in [plan.bases[step.operand] + step.segment]
        ]


def drive(
    planner: Planner,
    batches: Sequence[Batch],
    *,
    depth: int = DEPTH,
    backlog_ns: float = 1e12,
    is_pressed: bool = False,
) -> Driven:
    """Plan batches that are all there at once to their end; a rank's guard admits every window."""
    guard = WindowGuard(
        fence=FENCE,
        forwards=planner.forwards,
        num_slots=depth,
        tp_size=planner.topology.tp_size,
        pp_size=planner.topology.pp_size,
    )
    waiting, in_flight, plans = list(batches), [], []
    free_slots = list(range(depth))
    while waiting or in_flight:
        while waiting and free_slots:
            batch = waiting.pop(0)
            batch.start = replace(batch.start, slot=free_slots.pop(0))
            in_flight.append(batch)
        plan = planner.plan(in_flight, backlog_ns=backlog_ns, is_idle=not plans, is_pressed=is_pressed)
        plans.append(plan)
        starts = [batch.start for batch in plan.batches if not batch.is_published]
        guard.learn(plan.pattern)
        guard.admit(window_of(plan.pattern, len(plans), [batch.batch_id for batch in plan.batches], starts))
        for batch, position in zip(plan.batches, plan.positions, strict=True):
            batch.position, batch.is_published = position, True
        for batch in [one for one in in_flight if one.position == len(planner.forwards[one.kind])]:
            in_flight.remove(batch)
            free_slots.append(batch.start.slot)
    return Driven(tuple(plans), tuple(batches), planner.forwards, planner.topology)


@dataclass(frozen=True)
class Executed:
    """When things ended, in ns, and how long each lane was busy."""

    ends: dict[int, float]  # by batch id
    busy: dict[Lane, float]  # of all stages together

    @property
    def makespan(self) -> float:
        """When the last batch ended."""
        return max(self.ends.values())


def execute(driven: Driven, costs: CostModel) -> Executed:
    """Run windows as ranks do, without contention.

    Each stage has one launching thread: it waits for what a compute step needs and runs it; an exchange it only queues,
    and the communication lane takes what was queued first as soon as that has what it needs.
    """
    launcher = [0.0] * driven.topology.pp_size
    exchanging = [0.0] * driven.topology.pp_size
    whole: dict[tuple[int, int], float] = {}  # end of (batch, place)
    pieces: dict[tuple[int, int, int], float] = {}
    busy = dict.fromkeys(Lane, 0.0)
    for _, step, batch, segment, place in driven.steps():
        duration = costs.duration_ns(piece_shape(batch.shape, step), segment.kind)
        busy[segment.lane] += duration
        ready = whole.get((batch.batch_id, place - 1), 0.0)
        if step.piece is not None and segment.lane is Lane.COMMUNICATION:
            ready = pieces.get((batch.batch_id, place - 1, step.piece.index), ready)
        lane = launcher if segment.lane is Lane.COMPUTE else exchanging
        end = max(lane[segment.stage], launcher[segment.stage], ready) + duration
        lane[segment.stage] = end
        whole[batch.batch_id, place] = end  # the last piece ends last
        if step.piece is not None:
            pieces[batch.batch_id, place, step.piece.index] = end
    ends = {batch.batch_id: whole[batch.batch_id, len(driven.forwards[batch.kind]) - 1] for batch in driven.batches}
    return Executed(ends, busy)


def piece_shape(shape: Shape, step: Step) -> Shape:
    """Return the shape of what a step takes of a batch."""
    if step.piece is None:
        return shape
    index, count = step.piece.index, step.piece.count
    size = (index + 1) * shape.num_tokens // count - index * shape.num_tokens // count
    return replace(shape, num_tokens=size)


def alone_ns(batch: Batch, forwards: Forwards, costs: CostModel) -> float:
    """Return how long a batch takes in whole segments, one after another."""
    return sum(costs.duration_ns(batch.shape, segment.kind) for segment in forwards[batch.kind])


def lane_ns(batch: Batch, forwards: Forwards, costs: CostModel, lane: Lane) -> float:
    """Return how long a batch's whole segments take on one lane."""
    return sum(costs.duration_ns(batch.shape, segment.kind) for segment in forwards[batch.kind] if segment.lane is lane)


def collectives_of(driven: Driven, rank: int) -> list[tuple[int, int, int, int]]:
    """Return what a rank launches on its communication lane, in order: batch, place, piece, of so many."""
    return [
        (batch.batch_id, place, step.piece.index if step.piece else 0, step.piece.count if step.piece else 1)
        for _, step, batch, segment, place in driven.steps()
        if takes_part(step, rank) and segment.lane is Lane.COMMUNICATION and segment.kind is not SegmentKind.SEND
    ]


def search_cold(planner: Planner) -> bool:
    """Search for one window as an epoch does beside its step loop; return whether a search was due."""
    key = planner.next_cold()
    if key is None:
        return False
    planner.keep(key, planner.find(key))
    return True
