"""Profiles on the wire."""

from liger.domain import BatchKind, SegmentKind
from liger.errors import InvalidRequestError
from liger.profile import ContentionSample, ExchangeChoice, ProfileTable, SegmentSample
from liger.v1 import types_pb2, worker_pb2


def from_profile(table: ProfileTable) -> worker_pb2.ProfileTable:
    """Return a profile as a message."""
    return worker_pb2.ProfileTable(
        key=table.key,
        activation_bytes=table.activation_bytes,
        segments=[
            worker_pb2.ProfileTable.SegmentSample(
                batch=types_pb2.BatchKind.ValueType(sample.batch or 0),
                segment=worker_pb2.SegmentKind.ValueType(sample.segment),
                num_tokens=sample.num_tokens,
                context=sample.context,
                duration_ns=sample.duration_ns,
                held_ns=sample.held_ns,
            )
            for sample in table.segments
        ],
        contention=[
            worker_pb2.ProfileTable.ContentionSample(
                compute=worker_pb2.SegmentKind.ValueType(sample.compute),
                compute_tokens=sample.compute_tokens,
                communication_bytes=sample.communication_bytes,
                compute_factor=sample.compute_factor,
                communication_factor=sample.communication_factor,
            )
            for sample in table.contention
        ],
        exchange_choices=[
            worker_pb2.ProfileTable.ExchangeChoice(
                num_tokens=choice.num_tokens,
                is_beside_compute=choice.is_beside_compute,
                communicator=choice.communicator,
                duration_ns=choice.duration_ns,
                delay_ns=choice.delay_ns,
                is_chosen=choice.is_chosen,
            )
            for choice in table.exchange_choices
        ],
    )


def to_profile(message: worker_pb2.ProfileTable) -> ProfileTable:
    """Return a profile.

    Raises:
        InvalidRequestError: It holds unknown kinds, or numbers that no measurement gives.
    """
    try:
        table = ProfileTable(
            key=message.key,
            activation_bytes=message.activation_bytes,
            segments=tuple(map(_to_segment, message.segments)),
            contention=tuple(map(_to_contention, message.contention)),
            exchange_choices=tuple(map(_to_choice, message.exchange_choices)),
        )
    except ValueError as error:
        raise InvalidRequestError(f"a profile is not known here: {error}", field="segments") from error
    if not table.key or not table.activation_bytes or not table.segments:
        raise InvalidRequestError("a profile needs a key, activation_bytes and segments", field="segments")
    return table


def _to_segment(message: worker_pb2.ProfileTable.SegmentSample) -> SegmentSample:
    if not 0 <= message.held_ns <= message.duration_ns or message.num_tokens < 1:
        raise ValueError(
            f"{message.num_tokens} tokens in {message.duration_ns} ns, the lane held for {message.held_ns}"
        )
    return SegmentSample(
        batch=BatchKind(message.batch) if message.batch else None,
        segment=SegmentKind(message.segment),
        num_tokens=message.num_tokens,
        context=message.context,
        duration_ns=message.duration_ns,
        held_ns=message.held_ns,
    )


def _to_contention(message: worker_pb2.ProfileTable.ContentionSample) -> ContentionSample:
    if message.compute_tokens < 1 or message.communication_bytes < 1:
        raise ValueError(f"a co-run of {message.compute_tokens} tokens with {message.communication_bytes} bytes")
    factors = (message.compute_factor, message.communication_factor)
    if not all(0 < factor < float("inf") for factor in factors):
        raise ValueError(f"contention factors {factors}")
    return ContentionSample(
        compute=SegmentKind(message.compute),
        compute_tokens=message.compute_tokens,
        communication_bytes=message.communication_bytes,
        compute_factor=message.compute_factor,
        communication_factor=message.communication_factor,
    )


def _to_choice(message: worker_pb2.ProfileTable.ExchangeChoice) -> ExchangeChoice:
    if message.num_tokens < 1 or message.duration_ns < 0 or message.delay_ns < 0:
        raise ValueError(f"{message.num_tokens} tokens in {message.duration_ns} ns, {message.delay_ns} ns of delay")
    if not message.communicator:
        raise ValueError("a way to exchange without a name")
    return ExchangeChoice(
        num_tokens=message.num_tokens,
        is_beside_compute=message.is_beside_compute,
        communicator=message.communicator,
        duration_ns=message.duration_ns,
        delay_ns=message.delay_ns,
        is_chosen=message.is_chosen,
    )
