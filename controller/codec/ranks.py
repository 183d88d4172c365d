"""What ranks are sent; what they send, checked."""

from collections.abc import Iterable

from controller.core.plan import Forwards
from liger.domain import BatchKind, EncodeOutput, Fence, Lane, PoolOutput, ScoreOutput, SegmentKind
from liger.errors import GroupFailedError
from liger.rpc.sampling import from_constraint, from_sampling
from liger.rpc.values import from_fence, to_logprob
from liger.schedule import (
    BatchOutcome,
    BatchStart,
    BlockAppends,
    DecodeRows,
    EncodeRows,
    ItemResult,
    Pattern,
    PrefillRows,
    Segment,
    SequenceStart,
    Step,
    StepSpans,
    Window,
    WindowOutcome,
    WindowTimings,
)
from liger.v1 import types_pb2, worker_pb2


def to_fence(message: types_pb2.Fence) -> Fence:
    """Return the fence of a message."""
    return Fence(leader_term=message.leader_term, group=message.group, epoch=message.epoch)


def encode_pattern(pattern: Pattern) -> bytes:
    """Return the ExecuteRequest that teaches a rank a pattern, serialised: it is the same for every rank."""
    return worker_pb2.ExecuteRequest(pattern=_from_pattern(pattern)).SerializeToString()


def encode_window(window: Window) -> bytes:
    """Return the ExecuteRequest that publishes a window, serialised: it is the same for every rank."""
    return worker_pb2.ExecuteRequest(schedule=_from_window(window)).SerializeToString()


def encode_attach(fence: Fence, last_acknowledged: int) -> bytes:
    """Return the ExecuteRequest that begins an epoch's conversation, serialised."""
    attach = worker_pb2.Attach(fence=from_fence(fence), last_acknowledged=last_acknowledged)
    return worker_pb2.ExecuteRequest(attach=attach).SerializeToString()


def _from_pattern(pattern: Pattern) -> worker_pb2.Pattern:
    return worker_pb2.Pattern(
        id=pattern.id,
        operands=[types_pb2.BatchKind.ValueType(kind) for kind in pattern.operands],
        steps=[_from_step(step) for step in pattern.steps],
    )


def _from_step(step: Step) -> worker_pb2.Pattern.Step:
    message = worker_pb2.Pattern.Step(
        operand=step.operand,
        segment=step.segment,
        lane=types_pb2.Lane.ValueType(step.lane),
        participants=step.participants,
    )
    if step.piece is not None:
        axis = worker_pb2.Pattern.Piece.Axis.ValueType(step.piece.axis)
        message.piece.CopyFrom(worker_pb2.Pattern.Piece(axis=axis, index=step.piece.index, count=step.piece.count))
    return message


def _from_window(window: Window) -> worker_pb2.Schedule:
    return worker_pb2.Schedule(
        fence=from_fence(window.fence),
        number=window.number,
        pattern_id=window.pattern_id,
        batch_ids=window.batch_ids,
        sequence_starts=[_from_sequence_start(start) for start in window.sequence_starts],
        sequence_ends=window.sequence_ends,
        batch_starts=[_from_batch_start(start) for start in window.batch_starts],
        order_digest=window.order_digest,
        timed=window.timed,
    )


def _from_sequence_start(start: SequenceStart) -> worker_pb2.SequenceStart:
    return worker_pb2.SequenceStart(
        row=start.row,
        sampling=from_sampling(start.sampling),
        sample=start.sample,
        num_prompt_tokens=start.num_prompt_tokens,
        min_tokens=start.min_tokens,
        stop_token_ids=start.stop_token_ids,
        logprobs=start.sampling.logprobs,
        output_token_ids=start.output_token_ids,
        prompt_token_ids=start.prompt_token_ids,
        prompt_logprobs=start.prompt_logprobs,
        structured_output=from_constraint(start.constraint),
    )


def _from_batch_start(start: BatchStart) -> worker_pb2.BatchStart:
    kind = types_pb2.BatchKind.ValueType(start.kind)
    message = worker_pb2.BatchStart(batch_id=start.batch_id, kind=kind, slot=start.slot)
    if start.after_batch_id is not None:
        message.after_batch_id = start.after_batch_id
    match start.rows:
        case PrefillRows() as rows:
            message.prefill.CopyFrom(_from_prefill(rows))
        case DecodeRows() as rows:
            message.decode.rows.extend(rows.rows)
            message.decode.positions.extend(rows.positions)
            message.decode.appends.CopyFrom(_from_appends(rows.appends))
        case EncodeRows() as rows:
            message.encode.CopyFrom(_from_encode(rows))
    return message


def _from_prefill(rows: PrefillRows) -> worker_pb2.PrefillRows:
    return worker_pb2.PrefillRows(
        rows=rows.rows,
        num_tokens=rows.num_tokens,
        starts=rows.starts,
        token_ids=rows.token_ids,
        samples=rows.samples,
        appends=_from_appends(rows.appends),
        fork_counts=rows.fork_counts,
        fork_rows=rows.fork_rows,
    )


def _from_appends(appends: BlockAppends) -> worker_pb2.BlockAppends:
    return worker_pb2.BlockAppends(
        rows=appends.rows,
        counts=appends.counts,
        blocks=appends.blocks,
        copy_rows=appends.copy_rows,
        copy_sources=appends.copy_sources,
        copy_targets=appends.copy_targets,
    )


def _from_encode(rows: EncodeRows) -> worker_pb2.EncodeRows:
    return worker_pb2.EncodeRows(
        num_tokens=rows.num_tokens,
        token_ids=rows.token_ids,
        token_type_ids=rows.token_type_ids,
        outputs=[_from_output(output) for output in rows.outputs],
    )


def _from_output(output: EncodeOutput) -> worker_pb2.EncodeRows.Output:
    match output:
        case PoolOutput():
            pool = worker_pb2.PoolOutput(
                pooling=types_pb2.Pooling.ValueType(output.pooling),
                normalize=output.normalize,
                dimensions=output.dimensions,
            )
            return worker_pb2.EncodeRows.Output(pool=pool)
        case ScoreOutput(score_from=score_from):
            return worker_pb2.EncodeRows.Output(score=worker_pb2.ScoreOutput(score_from=score_from))
        case _:
            return worker_pb2.EncodeRows.Output(classify=worker_pb2.ClassifyOutput())


def to_forwards(messages: Iterable[worker_pb2.Forward]) -> Forwards:
    """Return the segment lists that a rank reported.

    Raises:
        GroupFailedError: They are empty or hold unknown kinds.
    """
    try:
        forwards = {BatchKind(message.kind): tuple(map(_to_segment, message.segments)) for message in messages}
    except ValueError as error:
        raise GroupFailedError(f"a rank reported a forward that this controller does not know: {error}") from error
    if not forwards or not all(forwards.values()):
        raise GroupFailedError("a rank reported no segments; worker and controller must have the same version")
    return forwards


def _to_segment(message: worker_pb2.SegmentDescriptor) -> Segment:
    return Segment(
        kind=SegmentKind(message.kind),
        lane=Lane(message.lane),
        layer=message.layer,
        peer=message.peer if message.HasField("peer") else None,
        stage=message.stage,
    )


def to_outcome(message: worker_pb2.WindowResult) -> WindowOutcome:
    """Return a rank's acknowledgement.

    Raises:
        GroupFailedError: Its columns do not fit one another.
    """
    timings = message.timings
    return WindowOutcome(
        fence=to_fence(message.fence),
        number=message.number,
        launched_digest=message.launched_digest,
        sampled_digest=message.sampled_digest,
        timings=WindowTimings(
            started_ns=timings.started_ns,
            ended_ns=timings.ended_ns,
            compute_ns=timings.compute_ns,
            communication_ns=timings.communication_ns,
            exposed_ns=timings.exposed_ns,
            batch_compute_ns=tuple(timings.batch_compute_ns),
            batch_exposed_ns=tuple(timings.batch_exposed_ns),
            spans=_to_spans(timings.spans),
        ),
        batches=tuple(_to_batch(batch) for batch in message.batches),
    )


def _to_spans(message: worker_pb2.StepSpans) -> StepSpans:
    columns = (message.windows, message.steps, message.begins_ns, message.ends_ns)
    if len(set(map(len, columns))) > 1:
        raise GroupFailedError("a rank acknowledged a window with spans whose columns are not equally long")
    return StepSpans(*map(tuple, columns))


def _to_batch(message: worker_pb2.BatchResult) -> BatchOutcome:
    return BatchOutcome(
        batch_id=message.batch_id,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(to_logprob(logprob) for logprob in message.logprobs),
        items=tuple(
            ItemResult(values=tuple(item.values), logprobs=tuple(to_logprob(logprob) for logprob in item.logprobs))
            for item in message.items
        ),
        prompt_logprobs=tuple(map(to_logprob, message.prompt_logprobs)),
    )
