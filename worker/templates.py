"""What a pattern comes to on one rank for batches that stand at given places: worked out once, used at every window."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, NamedTuple

from liger.digest import LaunchDigest, takes_part
from liger.domain import BatchKind, Lane, SegmentKind
from liger.schedule import Pattern, Segment, Step
from worker.rank import JoinPlan
from worker.segments import Forwards

_CAPTURED: Final = frozenset({SegmentKind.EMBED, SegmentKind.ATTENTION, SegmentKind.MLP, SegmentKind.ALL_REDUCE})
_LEAST_STEPS: Final = 4  # of a run that is captured; fewer are launched as fast one by one
_MOST: Final = 4096  # templates kept, and runs

Standing = tuple[BatchKind, int]
"""A batch's kind and the next segment of its forward."""


class Planned(NamedTuple):
    """One step of a pattern, as this rank launches it."""

    place: int  # in the pattern
    step: Step
    segment: Segment
    is_own: bool  # else another rank sends what this one will receive


@dataclass(frozen=True, slots=True)
class Run:
    """Steps that follow one another."""

    number: int  # the same for the same steps of batches that stand alike; 0 for steps that are not captured
    steps: tuple[Planned, ...]
    operands: tuple[int, ...]  # in them, each once

    @property
    def may_be_captured(self) -> bool:
        """Whether all of them may be in a CUDA graph."""
        return self.number > 0


@dataclass(frozen=True, slots=True)
class Template:
    """A pattern on one rank."""

    runs: tuple[Run, ...]  # all steps in their order
    digest: int  # of the steps that this rank launches
    num_steps: int  # of those
    advances: tuple[tuple[int, int], ...]  # operand, and how many segments of its forward the pattern covers


class Templates:
    """The templates of one epoch.

    Args:
        plan: This rank's place.
        forwards: The segments of each kind of batch.
    """

    def __init__(self, plan: JoinPlan, forwards: Forwards) -> None:
        self._plan = plan
        self._forwards = forwards
        self._known: OrderedDict[tuple[int, tuple[Standing, ...]], Template] = OrderedDict()
        self._numbers: dict[tuple[object, ...], int] = {}  # of runs
        self._fresh = count(1)  # none is ever given twice

    def find(self, pattern: Pattern, standing: tuple[Standing, ...]) -> Template:
        """Return a pattern's template for batches that stand so, by operand."""
        key = (pattern.id, standing)
        template = self._known.get(key)
        if template is None:
            template = self._known[key] = self._make(pattern, standing)
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        return template

    def _make(self, pattern: Pattern, standing: Sequence[Standing]) -> Template:
        digest = LaunchDigest()
        planned = []
        for place, step in enumerate(pattern.steps):
            kind, position = standing[step.operand]
            segment = self._forwards[kind][position + step.segment]
            is_own = takes_part(step, self._plan.rank)
            if is_own:
                digest.add(step)
            if is_own or (segment.kind is SegmentKind.SEND and segment.peer == self._plan.pp_stage):
                planned.append(Planned(place, step, segment, is_own))
        advances = {step.operand: step.segment + 1 for step in pattern.steps}
        return Template(
            runs=tuple(self._run(may_be, steps, standing) for may_be, steps in split(planned)),
            digest=digest.value(),
            num_steps=sum(one.is_own for one in planned),
            advances=tuple(sorted(advances.items())),
        )

    def _run(self, may_be_captured: bool, steps: Sequence[Planned], standing: Sequence[Standing]) -> Run:
        operands = tuple(dict.fromkeys(one.step.operand for one in steps))
        if not may_be_captured:
            return Run(0, tuple(steps), operands)
        name = tuple((one.step.operand, standing[one.step.operand], one.step.segment, one.step.piece) for one in steps)
        if len(self._numbers) > _MOST:
            self._numbers.clear()
        number = self._numbers.get(name) or self._numbers.setdefault(name, next(self._fresh))
        return Run(number, tuple(steps), operands)


def split(steps: Sequence[Planned]) -> Iterator[tuple[bool, Sequence[Planned]]]:
    """Yield steps in order, in runs that may be captured and others.

    Exchanges behind a run's last compute stay out of it: a graph is done when all of it is, and the next compute must
    not wait for them.
    """
    first = 0
    for is_inner, stop in _spans(steps):
        run = steps[first:stop]
        last = max((place for place, one in enumerate(run) if one.segment.lane is Lane.COMPUTE), default=-1) + 1
        if is_inner and last >= _LEAST_STEPS:
            yield True, run[:last]
            run = run[last:]
        if run:
            yield False, run
        first = stop


def _spans(steps: Sequence[Planned]) -> Iterator[tuple[bool, int]]:
    """Yield whether the next steps are of kinds that may be captured, and where they stop."""
    for place, one in enumerate(steps):
        is_inner = one.segment.kind in _CAPTURED
        if place + 1 == len(steps) or (steps[place + 1].segment.kind in _CAPTURED) != is_inner:
            yield is_inner, place + 1
