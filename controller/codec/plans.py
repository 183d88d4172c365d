"""What operators ask of plans, profiles and timelines, checked; and what they are told."""

from collections.abc import Iterable
from typing import Final

from liger.domain import BatchKind, ModelCard, Task
from liger.errors import InvalidRequestError
from liger.rpc.profile import from_profile
from liger.spans import LaneSpan
from liger.v1 import controller_pb2, types_pb2, worker_pb2
from liger.views import Correction, Explained, PlannedBatch, ProfileView

MAX_BATCHES: Final = 16
MAX_TOKENS: Final = 1_000_000

_KINDS: Final = frozenset(int(kind) for kind in BatchKind)


def to_planned(message: controller_pb2.ExplainPlanRequest, card: ModelCard | None) -> tuple[PlannedBatch, ...]:
    """Return the made-up batches; what names no kind does what the model is for.

    Raises:
        InvalidRequestError: They are too many, too large, or no batches at all.
    """
    if not 1 <= len(message.batches) <= MAX_BATCHES:
        raise InvalidRequestError(
            f"a plan takes 1 to {MAX_BATCHES} batches, not {len(message.batches)}", field="batches"
        )
    if message.depth > MAX_BATCHES:
        raise InvalidRequestError(f"depth is at most {MAX_BATCHES}, not {message.depth}", field="depth")
    usual = BatchKind.PREFILL if card and Task.GENERATE in card.tasks else BatchKind.ENCODE
    return tuple(_to_batch(batch, usual) for batch in message.batches)


def _to_batch(message: controller_pb2.ExplainPlanRequest.PlannedBatch, usual: BatchKind) -> PlannedBatch:
    if message.kind and message.kind not in _KINDS:
        raise InvalidRequestError(f"batch kind {message.kind} is not known", field="kind")
    if not 1 <= message.num_tokens <= MAX_TOKENS:
        raise InvalidRequestError(f"a batch has 1 to {MAX_TOKENS} tokens, not {message.num_tokens}", field="num_tokens")
    if message.context > MAX_TOKENS:
        raise InvalidRequestError(f"context is at most {MAX_TOKENS} tokens, not {message.context}", field="context")
    kind = BatchKind(message.kind) if message.kind else usual
    if kind is BatchKind.ENCODE and message.context:
        raise InvalidRequestError("an encode batch takes whole inputs and has no context behind it", field="context")
    return PlannedBatch(kind=kind, num_tokens=message.num_tokens, context=message.context)


def to_last_s(message: controller_pb2.GetTimelineRequest) -> float:
    """Return how far back a timeline goes, in seconds.

    Raises:
        InvalidRequestError: It is no positive number.
    """
    if not 0 < message.last_s < float("inf"):
        raise InvalidRequestError(f"last_s is a positive number of seconds, not {message.last_s}", field="last_s")
    return message.last_s


def from_explained(group: str, explained: Explained) -> controller_pb2.ExplainPlanResponse:
    """Return how batches would run as a message."""
    return controller_pb2.ExplainPlanResponse(
        group=group,
        spans=map(_from_span, explained.spans),
        makespan_ns=explained.makespan_ns,
        serial_ns=explained.serial_ns,
        finish_ns=explained.finish_ns,
        cost_version=explained.cost_version,
    )


def from_profile_view(group: str, view: ProfileView) -> controller_pb2.GetProfileResponse:
    """Return what was measured as a message."""
    return controller_pb2.GetProfileResponse(
        group=group,
        table=from_profile(view.table) if view.table else None,
        corrections=map(_from_correction, view.corrections),
        prediction_error=view.prediction_error,
    )


def from_timeline(group: str, spans: Iterable[LaneSpan]) -> controller_pb2.GetTimelineResponse:
    """Return what ran as a message."""
    return controller_pb2.GetTimelineResponse(group=group, spans=map(_from_span, spans))


def _from_span(span: LaneSpan) -> controller_pb2.LaneSpan:
    return controller_pb2.LaneSpan(
        rank=span.rank,
        lane=types_pb2.Lane.ValueType(span.lane),
        batch_id=span.batch_id,
        batch=types_pb2.BatchKind.ValueType(span.batch),
        num_tokens=span.num_tokens,
        segment=worker_pb2.SegmentKind.ValueType(span.segment),
        layer=span.layer,
        piece=span.piece,
        num_pieces=span.num_pieces,
        window=span.window,
        begin_ns=span.begin_ns,
        end_ns=span.end_ns,
    )


def _from_correction(correction: Correction) -> controller_pb2.Correction:
    return controller_pb2.Correction(
        batch=types_pb2.BatchKind.ValueType(correction.batch or 0),
        segment=worker_pb2.SegmentKind.ValueType(correction.segment),
        factor=correction.factor,
        num_observations=correction.num_observations,
    )
