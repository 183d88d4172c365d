"""The worker's edge: what the controller sends, checked; what it is sent."""

from collections.abc import Iterable

from liger.domain import (
    Axis,
    BatchKind,
    ClassifyOutput,
    EncodeOutput,
    Fence,
    Lane,
    Pooling,
    PoolOutput,
    ScoreOutput,
)
from liger.errors import InvalidRequestError, ScheduleRefusedError
from liger.rpc.sampling import to_constraint, to_sampling
from liger.rpc.values import from_fence, from_logprob
from liger.schedule import (
    BatchOutcome,
    BatchRows,
    BatchStart,
    BlockAppends,
    DecodeRows,
    EncodeRows,
    Pattern,
    Piece,
    PrefillRows,
    Segment,
    SequenceStart,
    Step,
    StepSpans,
    Window,
    WindowOutcome,
)
from liger.v1 import types_pb2, worker_pb2
from worker.rank import Joined, JoinPlan


def to_fence(message: types_pb2.Fence) -> Fence:
    """Return the fence of a message.

    Raises:
        InvalidRequestError: It names no group or epoch.
    """
    if not message.group or message.epoch < 1:
        raise InvalidRequestError("a fence needs a group and an epoch from 1", field="fence")
    return Fence(leader_term=message.leader_term, group=message.group, epoch=message.epoch)


def to_join_plan(message: worker_pb2.JoinGroupRequest) -> JoinPlan:
    """Return what a rank is told when an epoch begins.

    Raises:
        InvalidRequestError: Sizes and places do not fit one another.
    """
    if not 0 <= message.tp_rank < message.tp_size:
        raise InvalidRequestError(f"rank {message.tp_rank} is not among {message.tp_size} ranks", field="tp_rank")
    if not 0 <= message.pp_stage < message.pp_size:
        raise InvalidRequestError(f"stage {message.pp_stage} is not among {message.pp_size} stages", field="pp_stage")
    if len(message.stage_layers) != message.pp_size or min(message.stage_layers) < 1:
        raise InvalidRequestError("every stage needs a number of layers, at least 1", field="stage_layers")
    if not message.rendezvous_endpoint.rpartition(":")[2].isdigit():
        raise InvalidRequestError("rendezvous_endpoint must be host:port", field="rendezvous_endpoint")
    if message.num_slots < 1 or message.num_rows < 1:
        raise InvalidRequestError("num_slots and num_rows must be at least 1", field="num_slots")
    return JoinPlan(
        fence=to_fence(message.fence),
        tp_rank=message.tp_rank,
        tp_size=message.tp_size,
        pp_stage=message.pp_stage,
        pp_size=message.pp_size,
        rendezvous_endpoint=message.rendezvous_endpoint,
        num_slots=message.num_slots,
        max_batch_tokens=message.max_batch_tokens,
        num_rows=message.num_rows,
        stage_layers=tuple(message.stage_layers),
    )


def from_joined(joined: Joined) -> worker_pb2.JoinGroupResponse:
    """Return what a rank answers when it is ready."""
    message = worker_pb2.JoinGroupJoined(
        forwards=[
            worker_pb2.Forward(kind=types_pb2.BatchKind.ValueType(kind), segments=map(_from_segment, segments))
            for kind, segments in joined.forwards.items()
        ],
        num_blocks=joined.num_blocks,
        block_size=joined.block_size,
        weight_bytes=joined.weight_bytes,
        kv_bytes=joined.kv_bytes,
    )
    return worker_pb2.JoinGroupResponse(joined=message)


def _from_segment(segment: Segment) -> worker_pb2.SegmentDescriptor:
    return worker_pb2.SegmentDescriptor(
        kind=worker_pb2.SegmentKind.ValueType(segment.kind),
        lane=types_pb2.Lane.ValueType(segment.lane),
        layer=segment.layer,
        peer=segment.peer,
        stage=segment.stage,
    )


def to_pattern(message: worker_pb2.Pattern) -> Pattern:
    """Return a pattern.

    Raises:
        ScheduleRefusedError: It holds kinds or lanes that this rank does not know.
    """
    try:
        return Pattern(
            id=message.id,
            operands=tuple(BatchKind(kind) for kind in message.operands),
            steps=tuple(_to_step(step) for step in message.steps),
        )
    except ValueError as error:
        raise ScheduleRefusedError(f"a pattern is not known here: {error}") from error


def _to_step(message: worker_pb2.Pattern.Step) -> Step:
    piece = message.piece
    return Step(
        operand=message.operand,
        segment=message.segment,
        lane=Lane(message.lane),
        piece=Piece(axis=Axis(piece.axis), index=piece.index, count=piece.count) if message.HasField("piece") else None,
        participants=tuple(message.participants),
    )


def to_window(message: worker_pb2.Schedule) -> Window:
    """Return a window.

    Raises:
        ScheduleRefusedError: Its columns do not fit one another, or it holds kinds that this rank does not know.
    """
    try:
        return Window(
            fence=to_fence(message.fence),
            number=message.number,
            pattern_id=message.pattern_id,
            batch_ids=tuple(message.batch_ids),
            sequence_starts=tuple(_to_sequence_start(start) for start in message.sequence_starts),
            sequence_ends=tuple(message.sequence_ends),
            batch_starts=tuple(_to_batch_start(start) for start in message.batch_starts),
            order_digest=message.order_digest,
            timed=message.timed,
        )
    except (ValueError, InvalidRequestError) as error:
        raise ScheduleRefusedError(f"window {message.number} is not right: {error}") from error


def _to_sequence_start(message: worker_pb2.SequenceStart) -> SequenceStart:
    constrained = message.HasField("structured_output")
    return SequenceStart(
        row=message.row,
        sampling=to_sampling(message.sampling, message.logprobs if message.HasField("logprobs") else None),
        sample=message.sample,
        num_prompt_tokens=message.num_prompt_tokens,
        min_tokens=message.min_tokens,
        stop_token_ids=tuple(message.stop_token_ids),
        output_token_ids=tuple(message.output_token_ids),
        prompt_token_ids=tuple(message.prompt_token_ids),
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        constraint=to_constraint(message.structured_output) if constrained else None,
    )


def _to_batch_start(message: worker_pb2.BatchStart) -> BatchStart:
    return BatchStart(
        batch_id=message.batch_id,
        kind=BatchKind(message.kind),
        slot=message.slot,
        rows=_to_rows(message),
        after_batch_id=message.after_batch_id if message.HasField("after_batch_id") else None,
    )


def _to_rows(message: worker_pb2.BatchStart) -> BatchRows:
    match BatchKind(message.kind), message.WhichOneof("rows"):
        case BatchKind.PREFILL, "prefill":
            return _to_prefill(message.prefill)
        case BatchKind.DECODE, "decode":
            decode = message.decode
            _check_columns(len(decode.rows), decode.positions)
            appends = _to_appends(decode.appends)
            return DecodeRows(rows=tuple(decode.rows), positions=tuple(decode.positions), appends=appends)
        case BatchKind.ENCODE, "encode":
            return _to_encode(message.encode)
    raise ValueError(f"batch {message.batch_id} has no rows of its kind")


def _to_prefill(message: worker_pb2.PrefillRows) -> PrefillRows:
    _check_columns(len(message.rows), message.num_tokens, message.starts, message.samples)
    _check_total(message.num_tokens, len(message.token_ids))
    if len(message.fork_counts) not in {0, len(message.rows)} or sum(message.fork_counts) != len(message.fork_rows):
        raise ValueError("forks do not fit their chunks")
    return PrefillRows(
        rows=tuple(message.rows),
        num_tokens=tuple(message.num_tokens),
        starts=tuple(message.starts),
        token_ids=tuple(message.token_ids),
        samples=tuple(message.samples),
        appends=_to_appends(message.appends),
        fork_counts=tuple(message.fork_counts),
        fork_rows=tuple(message.fork_rows),
    )


def _to_appends(message: worker_pb2.BlockAppends) -> BlockAppends:
    if len(message.rows) != len(message.counts) or sum(message.counts) != len(message.blocks):
        raise ValueError("appended blocks do not fit their rows")
    if not len(message.copy_rows) == len(message.copy_sources) == len(message.copy_targets):
        raise ValueError("copied blocks do not fit their rows")
    return BlockAppends(
        rows=tuple(message.rows),
        counts=tuple(message.counts),
        blocks=tuple(message.blocks),
        copy_rows=tuple(message.copy_rows),
        copy_sources=tuple(message.copy_sources),
        copy_targets=tuple(message.copy_targets),
    )


def _to_encode(message: worker_pb2.EncodeRows) -> EncodeRows:
    _check_columns(len(message.num_tokens), message.outputs)
    _check_total(message.num_tokens, len(message.token_ids))
    if message.token_type_ids and len(message.token_type_ids) != len(message.token_ids):
        raise ValueError("token_type_ids are not as many as token_ids")
    return EncodeRows(
        num_tokens=tuple(message.num_tokens),
        token_ids=tuple(message.token_ids),
        token_type_ids=tuple(message.token_type_ids),
        outputs=tuple(_to_output(output) for output in message.outputs),
    )


def _to_output(message: worker_pb2.EncodeRows.Output) -> EncodeOutput:
    match message.WhichOneof("kind"):
        case "pool":
            pool = message.pool
            return PoolOutput(pooling=Pooling(pool.pooling), normalize=pool.normalize, dimensions=pool.dimensions)
        case "classify":
            return ClassifyOutput()
        case "score":
            return ScoreOutput(score_from=message.score.score_from)
    raise ValueError("an input has no output kind")


def _check_columns(count: int, *columns: Iterable[object]) -> None:
    if count == 0 or any(len(list(column)) != count for column in columns):
        raise ValueError("a batch's columns are empty or not equally long")


def _check_total(num_tokens: Iterable[int], total: int) -> None:
    counts = list(num_tokens)
    if min(counts) < 1 or sum(counts) != total:
        raise ValueError("a batch's token counts do not add up to its tokens")


def from_outcome(outcome: WindowOutcome) -> worker_pb2.ExecuteResponse:
    """Return a rank's acknowledgement as a message."""
    timings = outcome.timings
    result = worker_pb2.WindowResult(
        fence=from_fence(outcome.fence),
        number=outcome.number,
        launched_digest=outcome.launched_digest,
        sampled_digest=outcome.sampled_digest,
        timings=worker_pb2.WindowTimings(
            started_ns=timings.started_ns,
            ended_ns=timings.ended_ns,
            compute_ns=timings.compute_ns,
            communication_ns=timings.communication_ns,
            exposed_ns=timings.exposed_ns,
            batch_compute_ns=timings.batch_compute_ns,
            batch_exposed_ns=timings.batch_exposed_ns,
            spans=_from_spans(StepSpans.of(timings.spans)),
        ),
        batches=[_from_batch(batch) for batch in outcome.batches],
    )
    return worker_pb2.ExecuteResponse(result=result)


def _from_spans(told: StepSpans) -> worker_pb2.StepSpans:
    return worker_pb2.StepSpans(windows=told.windows, steps=told.steps, begins_ns=told.begins_ns, ends_ns=told.ends_ns)


def _from_batch(batch: BatchOutcome) -> worker_pb2.BatchResult:
    return worker_pb2.BatchResult(
        batch_id=batch.batch_id,
        token_ids=batch.token_ids,
        logprobs=map(from_logprob, batch.logprobs),
        items=[
            worker_pb2.ItemOutput(values=item.values, logprobs=map(from_logprob, item.logprobs)) for item in batch.items
        ],
        prompt_logprobs=map(from_logprob, batch.prompt_logprobs),
    )
