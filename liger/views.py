"""What a controller shows of its plans and of its cost model, as plain values."""

from dataclasses import dataclass

from liger.domain import BatchKind, SegmentKind
from liger.profile import ProfileTable
from liger.spans import LaneSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBatch:
    """A made-up batch, to be planned and not run."""

    kind: BatchKind
    num_tokens: int
    context: int = 0  # tokens behind each of its tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """How made-up batches would run."""

    spans: tuple[LaneSpan, ...]  # from 0; a stage stands for all of its ranks; batch ids grow in the batches' order
    makespan_ns: int  # when the last span ends
    serial_ns: int  # the same batches one after another
    finish_ns: tuple[int, ...]  # when each batch ends
    cost_version: int  # of the cost table that it was planned with


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What the predicted durations of a segment kind are multiplied with."""

    batch: BatchKind | None  # None for exchanges
    segment: SegmentKind
    factor: float  # 1 for none
    num_observations: int  # it stands on


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileView:
    """What a group's ranks measured, and how well predictions from it hold."""

    table: ProfileTable | None = None  # None for a group that needs no profile
    corrections: tuple[Correction, ...] = ()
    prediction_error: float | None = None  # median relative error; None without predictions
