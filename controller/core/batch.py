"""A batch in flight: what it holds and how far its segments are published."""

from dataclasses import dataclass

from controller.core.cost_model import Shape
from controller.core.sequence import Sequence
from liger.domain import BatchKind
from liger.schedule import BatchStart, DecodeRows, PrefillRows


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeEntry:
    """One input of a discriminative request, in a batch."""

    request_id: str
    item: int
    opened: int  # which request of this id: its place among all of the epoch


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """Sequences or inputs that advance together."""

    start: BatchStart
    num_tokens: int
    sequences: tuple[Sequence, ...] = ()  # prefill: one a chunk; decode: one a row
    entries: tuple[EncodeEntry, ...] = ()  # encode: one an input
    sequence_starts: tuple[Sequence, ...] = ()  # those whose row begins with this batch
    position: int = 0  # segments published so far
    is_published: bool = False  # whether its start went out

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
    def request_ids(self) -> set[str]:
        """The requests that it advances."""
        return {sequence.request_id for sequence in self.sequences} | {entry.request_id for entry in self.entries}
