"""Plans made-up batches as a group's planner would, without running them."""

from collections.abc import Sequence

from controller.core.batch import Batch
from controller.core.cost_model import CostModel
from controller.core.plan import Forwards, Plan, Strategy, Topology
from controller.core.planner import Planner
from liger.domain import BatchKind
from liger.errors import InvalidRequestError
from liger.schedule import BatchRows, BatchStart, DecodeRows, EncodeRows, PrefillRows
from liger.spans import LaneSpan
from liger.views import Explained, PlannedBatch


def explain(
    batches: Sequence[PlannedBatch], depth: int, *, forwards: Forwards, topology: Topology, costs: CostModel
) -> Explained:
    """Return what would run when, for batches that are all there at once.

    Args:
        batches: Oldest first.
        depth: Batches in flight at once, at most.
        forwards: What each kind of batch runs.
        topology: How the ranks are laid out.
        costs: Predicts durations.

    Raises:
        InvalidRequestError: The model has no forward for a batch's kind.
    """
    for batch in batches:
        if batch.kind not in forwards:
            raise InvalidRequestError(f"this model runs no {batch.kind.name.lower()} batches", field="batches")
    planner = Planner(forwards, strategy=Strategy.INTERLEAVED, topology=topology, costs=costs)
    waiting = [_made_up(number, batch) for number, batch in enumerate(batches, 1)]
    in_flight: list[Batch] = []
    spans: list[LaneSpan] = []
    window, origin_ns = 0, 0.0
    while waiting or in_flight:
        while waiting and len(in_flight) < depth:
            in_flight.append(waiting.pop(0))
        window += 1
        plan = planner.plan(in_flight, backlog_ns=float("inf"), is_idle=window == 1)
        spans += _spans(plan, forwards, window, origin_ns)
        origin_ns += plan.cut.predicted_ns
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


def _spans(plan: Plan, forwards: Forwards, window: int, origin_ns: float) -> list[LaneSpan]:
    spans = []
    for step, expected in zip(plan.pattern.steps, plan.cut.expected, strict=True):
        batch = plan.batches[step.operand]
        segment = forwards[batch.kind][plan.bases[step.operand] + step.segment]
        spans.append(
            LaneSpan(
                rank=segment.stage,
                lane=segment.lane,
                batch_id=batch.batch_id,
                batch=batch.kind,
                num_tokens=batch.num_tokens,
                segment=segment.kind,
                layer=segment.layer,
                piece=step.piece.index if step.piece else 0,
                num_pieces=step.piece.count if step.piece else 1,
                window=window,
                begin_ns=round(origin_ns + expected.begin_ns),
                end_ns=round(origin_ns + expected.end_ns),
            )
        )
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
