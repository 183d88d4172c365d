"""Plans made-up batches as a group's planner would, without running them."""

from collections import defaultdict
from collections.abc import Sequence

from controller.core.batch import Batch
from controller.core.cost_model import CostModel
from controller.core.plan import Forwards, Plan, Strategy, Topology, lane_span
from controller.core.planner import Planner
from controller.core.situation import InterleaveOptions
from liger.domain import BatchKind, Lane
from liger.errors import InvalidRequestError
from liger.schedule import BatchRows, BatchStart, DecodeRows, EncodeRows, PrefillRows, Step, StepSpan
from liger.spans import LaneSpan
from liger.views import Explained, PlannedBatch


def explain(
    batches: Sequence[PlannedBatch],
    depth: int,
    *,
    forwards: Forwards,
    topology: Topology,
    costs: CostModel,
    options: InterleaveOptions = InterleaveOptions(),  # noqa: B008 - a frozen value
) -> Explained:
    """Return what would run when, for batches that are all there at once.

    Args:
        batches: Oldest first.
        depth: Batches in flight at once, at most.
        forwards: What each kind of batch runs.
        topology: How the ranks are laid out.
        costs: Predicts durations.
        options: Bounds of windows.

    Raises:
        InvalidRequestError: The model has no forward for a batch's kind.
    """
    for batch in batches:
        if batch.kind not in forwards:
            raise InvalidRequestError(f"this model runs no {batch.kind.name.lower()} batches", field="batches")
    planner = Planner(forwards, strategy=Strategy.INTERLEAVED, topology=topology, costs=costs, options=options)
    waiting = [_made_up(number, batch) for number, batch in enumerate(batches, 1)]
    in_flight: list[Batch] = []
    spans: list[LaneSpan] = []
    window, lanes = 0, _Lanes()
    while waiting or in_flight:
        while waiting and len(in_flight) < depth:
            in_flight.append(waiting.pop(0))
        window += 1
        plan = planner.plan(in_flight, backlog_ns=float("inf"), is_idle=window == 1)
        spans += _spans(plan, forwards, window, lanes)
        for made_up, position in zip(plan.batches, plan.positions, strict=True):
            made_up.position = position
        in_flight = [one for one in in_flight if one.position < len(forwards[one.kind])]
    serial_ns = sum(_alone_ns(batch, forwards, costs) for batch in batches)
    finish_ns = tuple(
        max(span.end_ns for span in spans if span.batch_id == number) for number in range(1, len(batches) + 1)
    )
    return Explained(
        spans=tuple(spans),
        makespan_ns=max(finish_ns),
        serial_ns=round(serial_ns),
        finish_ns=finish_ns,
        cost_version=costs.version,
    )


class _Lanes:
    """Runs planned windows as ranks do: each lane in order, each step after what it needs, windows without a pause."""

    def __init__(self) -> None:
        self._free: defaultdict[tuple[int, Lane], float] = defaultdict(float)  # by stage and lane
        self._ends: dict[tuple[int, int, int], float] = {}  # by batch, place in its forward, piece; -1 for the last

    def run(self, batch: Batch, place: int, step: Step, stage: int, duration_ns: float) -> tuple[int, int]:
        """Return when a step begins and ends."""
        piece = step.piece.index if step.piece else -1
        before = (batch.batch_id, place - 1)
        needed = self._ends.get((*before, -1), 0.0)
        if step.lane is Lane.COMMUNICATION:
            needed = self._ends.get((*before, piece), needed)
        launched = self._free[stage, Lane.COMPUTE]
        begin = max(self._free[stage, step.lane], launched, needed)
        end = begin + duration_ns
        self._free[stage, step.lane] = end
        self._ends[batch.batch_id, place, piece] = self._ends[batch.batch_id, place, -1] = end
        return round(begin), round(end)


def _spans(plan: Plan, forwards: Forwards, window: int, lanes: _Lanes) -> list[LaneSpan]:
    spans = []
    for step, expected in zip(plan.pattern.steps, plan.cut.expected, strict=True):
        batch = plan.batches[step.operand]
        place = plan.bases[step.operand] + step.segment
        segment = forwards[batch.kind][place]
        begin_ns, end_ns = lanes.run(batch, place, step, segment.stage, expected.end_ns - expected.begin_ns)
        ran = StepSpan(window, 0, begin_ns, end_ns)
        spans.append(lane_span(batch, segment, step, ran, rank=segment.stage))
    return spans


def _alone_ns(batch: PlannedBatch, forwards: Forwards, costs: CostModel) -> float:
    shape = _made_up(1, batch).shape
    return sum(costs.duration_ns(shape, segment.kind) for segment in forwards[batch.kind])


def _made_up(number: int, batch: PlannedBatch) -> Batch:
    start = BatchStart(batch_id=number, kind=batch.kind, slot=0, rows=_rows(batch))
    return Batch(start=start, num_tokens=batch.num_tokens)


def _rows(batch: PlannedBatch) -> BatchRows:
    match batch.kind:
        case BatchKind.ENCODE:
            return EncodeRows(num_tokens=(batch.num_tokens,), token_ids=(), token_type_ids=(), outputs=())
        case BatchKind.PREFILL:
            counts, starts = (batch.num_tokens,), (batch.context,)
            return PrefillRows(rows=(0,), num_tokens=counts, starts=starts, token_ids=(), samples=(True,))
        case BatchKind.DECODE:
            return DecodeRows(rows=(0,), positions=(batch.context,))
