"""What a plan is, and the two strategies that need no search: tensor and pipeline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from controller.core.batch import Batch
from liger.digest import pattern_digest
from liger.domain import BatchKind, SegmentKind
from liger.schedule import Pattern, Segment, Step, StepSpan
from liger.spans import LaneSpan

Forwards = Mapping[BatchKind, tuple[Segment, ...]]
"""What each kind of batch runs, stage after stage, as the ranks reported it."""


_SPAN_NS: Final = 10_000  # what a step's span costs to take and to read, about
_SPANS_SHARE: Final = 0.1  # of a window's time may go into its spans


class Strategy(StrEnum):
    """How batches share the ranks."""

    TENSOR = "tensor"  # one batch at a time, from its first segment to its last
    PIPELINE = "pipeline"  # as many batches as stages; each window takes each through one stage
    INTERLEAVED = "interleaved"  # while one batch communicates, others compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """How a group's ranks are laid out."""

    tp_size: int = 1
    pp_size: int = 1

    def participants(self, segment: Segment) -> tuple[int, ...]:
        """Return the ranks that run a segment; empty for all."""
        if self.pp_size == 1:
            return ()
        return tuple(range(segment.stage * self.tp_size, (segment.stage + 1) * self.tp_size))


@dataclass(frozen=True, slots=True)
class Expected:
    """When a step should run, in ns from its window's begin; what it takes alone."""

    begin_ns: float
    end_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A window's order without its batches: what is cached."""

    pattern: Pattern
    operands: tuple[int, ...]  # place of each operand's batch among those in flight
    advances: tuple[int, ...]  # segments that each operand takes
    expected: tuple[Expected, ...] = ()  # by step; empty without a cost model
    predicted_ns: float = 0.0  # until the next window can go on; 0 without a cost model
    ready: tuple[float, ...] = ()  # ns after that until each batch in flight may go on
    free: tuple[float, ...] = ()  # ns after that until each lane is free
    version: int = 0  # of the costs
    is_hasty: bool = False  # a search may find better


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One window's order, and what it does to its batches."""

    cut: Cut
    batches: tuple[Batch, ...]  # the batch behind each operand
    bases: tuple[int, ...]  # segments published of each before this window

    @property
    def pattern(self) -> Pattern:
        """The order."""
        return self.cut.pattern

    @property
    def positions(self) -> tuple[int, ...]:
        """Segments published of each batch after this window."""
        return tuple(base + advance for base, advance in zip(self.bases, self.cut.advances, strict=True))

    def is_timed_cheaply(self, last_ns: int) -> bool:
        """Return whether reporting each step costs little of the window's time.

        Args:
            last_ns: How long the last window took, in case nothing is predicted of this one.
        """
        lasts_ns = self.cut.predicted_ns or last_ns
        return len(self.pattern.steps) * _SPAN_NS <= _SPANS_SHARE * lasts_ns


def make_plan(cut: Cut, in_flight: Sequence[Batch]) -> Plan:
    """Return a cut for the batches in flight."""
    batches = tuple(in_flight[place] for place in cut.operands)
    return Plan(cut=cut, batches=batches, bases=tuple(batch.position for batch in batches))


def make_cut(runs: Sequence[tuple[int, BatchKind, Iterable[tuple[int, Segment]]]], topology: Topology) -> Cut:
    """Return the window in which batches run whole segments one after another.

    Args:
        runs: Of each batch: its place among those in flight, its kind, and (offset, segment) in order.
        topology: Names who takes part.
    """
    steps: list[Step] = []
    advances = []
    for operand, (_, _, run) in enumerate(runs):
        before = len(steps)
        steps += [
            Step(operand=operand, segment=offset, lane=segment.lane, participants=topology.participants(segment))
            for offset, segment in run
        ]
        advances.append(len(steps) - before)
    kinds = tuple(kind for _, kind, _ in runs)
    return Cut(
        pattern=Pattern(id=pattern_digest(kinds, steps), operands=kinds, steps=tuple(steps)),
        operands=tuple(place for place, _, _ in runs),
        advances=tuple(advances),
    )


def whole_forward(forwards: Forwards, topology: Topology, kind: BatchKind, position: int) -> Cut:
    """Return the window that takes the oldest batch to its end."""
    return make_cut([(0, kind, enumerate(forwards[kind][position:]))], topology)


def one_stage_each(forwards: Forwards, topology: Topology, batches: Sequence[tuple[BatchKind, int]]) -> Cut:
    """Return the window that takes each batch (kind, position) through the stage in which it stands.

    What only brings drawn tokens back to the first stage belongs to the last stage's window.
    """
    runs = []
    for place, (kind, position) in enumerate(batches):
        rest = forwards[kind][position:]
        length = next((number for number, segment in enumerate(rest) if segment.stage != rest[0].stage), len(rest))
        if all(segment.kind is SegmentKind.RECEIVE for segment in rest[length:]):
            length = len(rest)
        runs.append((place, kind, enumerate(rest[:length])))
    return make_cut(runs, topology)


def lane_span(batch: Batch, segment: Segment, step: Step, ran: StepSpan, *, rank: int) -> LaneSpan:
    """Return when a step of a batch ran, or is planned to run, with what people want to know of it."""
    return LaneSpan(
        rank=rank,
        lane=segment.lane,
        batch_id=batch.batch_id,
        batch=batch.kind,
        num_tokens=batch.num_tokens,
        segment=segment.kind,
        layer=segment.layer,
        piece=step.piece.index if step.piece else 0,
        num_pieces=step.piece.count if step.piece else 1,
        window=ran.window,
        begin_ns=ran.begin_ns,
        end_ns=ran.end_ns,
    )
