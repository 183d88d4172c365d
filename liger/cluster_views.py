"""Reads plans, profiles and timelines from a cluster's controller, as plain values."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from liger.cluster_state import GroupPhase, GroupState, calling, fetch_cluster
from liger.domain import BatchKind, Lane, SegmentKind
from liger.errors import InvalidRequestError, LigerError, ModelNotFoundError, UnavailableError
from liger.rpc.profile import to_profile
from liger.spans import LaneSpan
from liger.v1 import controller_pb2 as pb
from liger.v1 import types_pb2
from liger.views import Correction, Explained, ProfileView

LIMIT_S: Final = 60.0
FORMING_LIMIT_S: Final = 1800.0  # longer than ranks may take to join and to measure
_POLL_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedBatch:
    """A made-up batch, as an operator names it."""

    kind: BatchKind | None = None  # None does what the group's model is for
    num_tokens: int
    context: int = 0  # tokens behind each of its tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """How an epoch ended so that ranks measure anew."""

    ended_epoch: int
    num_finished: int  # requests
    num_abandoned: int  # requests that the time did not suffice for


def choose_group(groups: Sequence[GroupState], *, model: str = "", group: str = "") -> GroupState:
    """Return the first group that has the names given; one model must be meant.

    Raises:
        ModelNotFoundError: There is none.
        InvalidRequestError: Groups of several models could be meant.
    """
    fitting = [each for each in groups if group in {"", each.name} and model in {"", each.model}]
    known = ", ".join(f"{each.name} of model {each.model or 'unknown'}" for each in groups)
    if not groups:
        raise ModelNotFoundError("no worker has registered yet; see 'liger status'")
    if not fitting:
        wanted = " of ".join([*([f"group {group!r}"] if group else []), *([f"model {model!r}"] if model else [])])
        raise ModelNotFoundError(f"there is no {wanted}; there are: {known}")
    if len({each.model for each in fitting}) > 1:
        raise InvalidRequestError(f"name one of the groups; there are: {known}", field="group")
    return fitting[0]


async def fetch_profile(controller: str, group: str) -> ProfileView:
    """Ask the controller at host:port what a group's ranks measured.

    Raises:
        LigerError: What the controller answered, or UnavailableError if none answers there.
    """
    async with calling(controller) as stub:
        reply = await stub.GetProfile(pb.GetProfileRequest(group=group), timeout=LIMIT_S)
    return ProfileView(
        table=to_profile(reply.table) if reply.HasField("table") else None,
        corrections=_to_corrections(reply.corrections),
        prediction_error=reply.prediction_error if reply.HasField("prediction_error") else None,
    )


async def renew_profile(controller: str, group: str, timeout_s: float) -> Renewed:
    """Let a group finish what is under way within a time and begin an epoch in which its ranks measure anew.

    Raises:
        LigerError: What the controller answered, or UnavailableError if none answers there.
    """
    if not 0 <= timeout_s < float("inf"):
        raise InvalidRequestError("the timeout must be a number of seconds, at least 0", field="timeout_s")
    async with calling(controller) as stub:
        request = pb.RenewProfileRequest(group=group, timeout_s=timeout_s)
        reply = await stub.RenewProfile(request, timeout=timeout_s + LIMIT_S)
    return Renewed(ended_epoch=reply.ended_epoch, num_finished=reply.num_finished, num_abandoned=reply.num_abandoned)


async def await_epoch(controller: str, group: str, *, after: int, tell: Callable[[str, float], None]) -> None:
    """Wait until a group serves in a later epoch than one.

    Args:
        controller: host:port.
        group: Its name.
        after: The epoch.
        tell: Takes what it is doing and the share that is done.

    Raises:
        LigerError: What the controller answered, or UnavailableError if that takes too long.
    """
    detail = ""
    try:
        async with asyncio.timeout(FORMING_LIMIT_S):
            while True:
                state = await fetch_cluster(controller)
                for each in state.groups:
                    if each.name != group:
                        continue
                    if each.phase is GroupPhase.SERVING and each.epoch > after:
                        return
                    detail = each.detail
                    tell(detail or each.phase.name.lower(), each.progress)
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise UnavailableError(f"group {group} does not serve after {FORMING_LIMIT_S:.0f} s: {detail}") from error


async def fetch_plan(controller: str, group: str, batches: Iterable[AskedBatch], depth: int = 0) -> Explained:
    """Ask the controller at host:port how batches, oldest first, would run; depth 0 takes the group's own.

    Raises:
        LigerError: What the controller answered, or UnavailableError if none answers there.
    """
    asked = [
        pb.ExplainPlanRequest.PlannedBatch(
            kind=types_pb2.BatchKind.ValueType(batch.kind or 0), num_tokens=batch.num_tokens, context=batch.context
        )
        for batch in batches
    ]
    async with calling(controller) as stub:
        request = pb.ExplainPlanRequest(group=group, batches=asked, depth=depth)
        reply = await stub.ExplainPlan(request, timeout=LIMIT_S)
    return Explained(
        spans=_to_spans(reply.spans),
        makespan_ns=reply.makespan_ns,
        serial_ns=reply.serial_ns,
        finish_ns=tuple(reply.finish_ns),
        cost_version=reply.cost_version,
    )


async def fetch_timeline(controller: str, group: str, last_s: float) -> tuple[LaneSpan, ...]:
    """Ask the controller at host:port what ran on a group's lanes in the last seconds, by rank and begin.

    Raises:
        LigerError: What the controller answered, or UnavailableError if none answers there.
    """
    async with calling(controller) as stub:
        reply = await stub.GetTimeline(pb.GetTimelineRequest(group=group, last_s=last_s), timeout=LIMIT_S)
    return _to_spans(reply.spans)


def _to_spans(messages: Iterable[pb.LaneSpan]) -> tuple[LaneSpan, ...]:
    try:
        return tuple(map(_to_span, messages))
    except ValueError as error:
        raise _unknown(error) from error


def _to_span(message: pb.LaneSpan) -> LaneSpan:
    return LaneSpan(
        rank=message.rank,
        lane=Lane(message.lane),
        batch_id=message.batch_id,
        batch=BatchKind(message.batch),
        num_tokens=message.num_tokens,
        segment=SegmentKind(message.segment),
        layer=message.layer,
        piece=message.piece,
        num_pieces=message.num_pieces,
        window=message.window,
        begin_ns=message.begin_ns,
        end_ns=message.end_ns,
    )


def _to_corrections(messages: Iterable[pb.Correction]) -> tuple[Correction, ...]:
    try:
        return tuple(
            Correction(
                batch=BatchKind(message.batch) if message.batch else None,
                segment=SegmentKind(message.segment),
                factor=message.factor,
                num_observations=message.num_observations,
            )
            for message in messages
        )
    except ValueError as error:
        raise _unknown(error) from error


def _unknown(error: ValueError) -> LigerError:
    return LigerError(f"the controller's answer is not known here ({error}); use one version everywhere")
