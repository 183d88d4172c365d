"""What a plan comes to: how long it takes, how busy its lanes are, when each batch ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from liger.domain import BatchKind, Lane
from liger.pictures.names import lane_name, letter, places
from liger.spans import LaneUse, hidden_share, lane_use
from liger.views import Explained

_NS_PER_MS: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAccount:
    """When one batch of a plan ends."""

    name: str  # a letter
    kind: BatchKind
    num_tokens: int
    finish_ms: float
    alone_ms: float  # with nothing else in flight
    serial_ms: float  # with the older ones before it, one after another


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAccount:
    """What a plan comes to."""

    makespan_ms: float
    serial_ms: float
    hidden_share: float | None  # of the hideable communication, under another batch's compute
    headline: str
    lanes: tuple[str, ...]  # one line a stage
    batches: tuple[BatchAccount, ...]


def account(explained: Explained, alone: Sequence[Explained]) -> PlanAccount:
    """Return what a plan comes to, beside each of its batches planned alone."""
    uses = lane_use(explained.spans)
    ratio = explained.serial_ns / explained.makespan_ns if explained.makespan_ns else 1.0
    makespan_ms, serial_ms = explained.makespan_ns / _NS_PER_MS, explained.serial_ns / _NS_PER_MS
    return PlanAccount(
        makespan_ms=makespan_ms,
        serial_ms=serial_ms,
        hidden_share=hidden_share(explained.spans),
        headline=f"makespan {makespan_ms:.2f} ms, serial (one after another) {serial_ms:.2f} ms: {ratio:.2f}×",
        lanes=tuple(_lane_line(rank, use, len(uses), explained.makespan_ns) for rank, use in uses.items()),
        batches=tuple(_batches(explained, alone)),
    )


def _batches(explained: Explained, alone: Sequence[Explained]) -> list[BatchAccount]:
    order = places(explained.spans)
    first = {order[span.batch_id]: span for span in reversed(explained.spans)}
    told, serial_ms = [], 0.0
    for place, (finish_ns, single) in enumerate(zip(explained.finish_ns, alone, strict=True)):
        alone_ms = single.serial_ns / _NS_PER_MS
        serial_ms += alone_ms
        own = BatchAccount(
            name=letter(place),
            kind=first[place].batch,
            num_tokens=first[place].num_tokens,
            finish_ms=finish_ns / _NS_PER_MS,
            alone_ms=alone_ms,
            serial_ms=serial_ms,
        )
        told.append(own)
    return told


def _lane_line(rank: int, use: LaneUse, num_ranks: int, makespan_ns: int) -> str:
    busy = ((Lane.COMPUTE, use.compute_ns), (Lane.COMMUNICATION, use.communication_ns))
    parts = [f"{lane_name(rank, lane, num_ranks)} busy {spent_ns / makespan_ns:.0%}" for lane, spent_ns in busy]
    if use.hideable_ns:
        parts.append(f"{use.hidden_ns / use.hideable_ns:.0%} of the hideable communication under another batch")
    return ", ".join(parts)
