"""What a controller shows of its plans, of its cost model and of the mix of work, as plain values."""

from dataclasses import dataclass

from liger.domain import BatchKind, SegmentKind, Task
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowMix:
    """Batches that ran side by side."""

    batches: tuple[BatchKind, ...]  # in the order of BatchKind
    share: float  # of the last windows, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeChoice:
    """In how many batches running sequences decode, and why."""

    num_batches: int
    merged_ns: float | None = None  # a step of all sequences in one batch; None without predictions
    split_ns: float | None = None  # the same in two interleaved halves


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskShare:
    """One task's part of the ranks."""

    task: Task
    weight: float
    share: float  # of the ranks' time so far, 0 to 1
    num_waiting: int = 0  # sequences or inputs
