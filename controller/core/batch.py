"""A batch in flight: what it holds and how far its segments are published."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.core.charges import Charges
from controller.core.cost_model import Shape
from controller.core.sequence import Sequence
from liger.domain import BatchKind, Task
from liger.schedule import BatchStart, DecodeRows, PrefillRows


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeEntry:
    """One input of a discriminative request, in a batch."""

    request_id: str
    item: int
    opened: int  # which request of this id: its place among all of the epoch
    charges: Charges = field(default_factory=Charges)  # the request's


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """Sequences or inputs that advance together."""

    start: BatchStart
    num_tokens: int
    tasks: Mapping[Task, float] = field(default_factory=lambda: {Task.GENERATE: 1.0})  # each one's share of its tokens
    sequences: tuple[Sequence, ...] = ()  # prefill: one a chunk, each followed by its forks; decode: one a row
    entries: tuple[EncodeEntry, ...] = ()  # encode: one an input
    sequence_starts: tuple[Sequence, ...] = ()  # those whose row begins with this batch
    copied: tuple[int, ...] = ()  # KV blocks that it copies, held until its start is published
    charges: tuple[Charges, ...] = ()  # of the requests that it advances, each once
    deadline_ns: int | None = None  # the nearest of theirs
    predicted_ns: float = 0.0  # of the ranks' time, from its first segment to its last
    position: int = 0  # segments published so far
    is_published: bool = False  # whether its start went out

    def __post_init__(self) -> None:
        """Gather the requests once: every window asks for them."""
        members = self.entries or self.sequences
        self.charges = tuple(dict.fromkeys([member.charges for member in members]))
        deadlines = [one.deadline_ns for one in self.charges if one.deadline_ns is not None]
        self.deadline_ns = min(deadlines, default=None)

    @property
    def batch_id(self) -> int:
        """Its number within the epoch."""
        return self.start.batch_id

    @property
    def kind(self) -> BatchKind:
        """What it does."""
        return self.start.kind

    @property
    def shape(self) -> Shape:
        """Its size, as costs depend on it."""
        match self.start.rows:
            case PrefillRows(starts=starts, num_tokens=counts):
                behind = sum(start * count for start, count in zip(starts, counts, strict=True))
                return Shape(self.kind, self.num_tokens, behind // self.num_tokens)
            case DecodeRows(positions=positions):
                return Shape(self.kind, self.num_tokens, sum(positions) // len(positions))
            case _:
                return Shape(self.kind, self.num_tokens)

    @property
    def drawing(self) -> tuple[Sequence, ...]:
        """The sequences that a token is drawn for, in the order of the results."""
        rows = self.start.rows
        if not isinstance(rows, PrefillRows):
            return self.sequences
        draws = [drawn for samples, forks in zip(rows.samples, rows.forks(), strict=True) for drawn in
                 (samples, *[True] * len(forks))]  # fmt: skip
        return tuple(sequence for sequence, drawn in zip(self.sequences, draws, strict=True) if drawn)
