"""What a window is planned from: batches as the search sees them, what is planned for, and bounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from math import ceil, log2
from typing import Final

from controller.core.cost_model import Shape
from liger.domain import SegmentKind
from liger.schedule import Segment

LONE_REACH: Final = 5.0  # a batch that is alone in flight goes so many times further in a window
MIXED_SHARE: Final = 0.3  # of a decode step: how far other work goes in a window beside it
LEAST_MIXED_NS: Final = 2e6

_MAX_PARTS: Final = 16  # to which a time is rounded


class Situation(Enum):
    """What a window is planned for."""

    USUAL = auto()
    LONE = auto()  # one batch is in flight, and nothing waits
    PRESSED = auto()  # more waits than fits in flight, so that throughput decides how long requests take
    MIXED = auto()  # sequences decode beside other work; clients watch their steps


@dataclass(frozen=True, slots=True, kw_only=True)
class InterleaveOptions:
    """What a plan may do."""

    slack: float = 0.05  # how much longer the primary may take than alone, as a share
    pressed_slack: float = 0.5  # likewise, while more waits than fits in flight
    mixed_slack: float = 0.25  # likewise, of a decode step while other work fills the gaps of its exchanges
    window_ns: float = 20e6  # a window takes the primary so far, in whole layers
    least_gain: float = 0.03  # what is less simple must gain more: over the primary alone, over whole segments
    least_lone_gain: float = 0.1  # the same for a batch that runs alone: what it can win is little, and less certain
    least_piece_tokens: int = 128  # of a decomposed MLP
    least_exchanged_tokens: int = 64  # of a decomposed exchange
    least_lone_tokens: int = 512  # a batch that runs alone is decomposed from here on
    max_pieces: int = 4


@dataclass(frozen=True, slots=True)
class View:
    """One batch in flight, as the search sees it."""

    shape: Shape
    position: int  # in its forward
    ready: float  # ns until its next segment may begin


def bucketed(shape: Shape) -> Shape:
    """Return a shape with its sizes rounded up: tokens to the next of four an octave, contexts to the next octave."""
    return Shape(shape.kind, _bucket(shape.num_tokens, 4), _bucket(shape.context, 1) if shape.context else 0)


def rounded(time_ns: float, unit_ns: float) -> float:
    """Return a time in whole units; what is long is not told apart."""
    return min(round(time_ns / unit_ns), _MAX_PARTS) * unit_ns


def first_alike(forward: Sequence[Segment], position: int, num_ahead: int) -> int:
    """Return the first position from which a forward goes on alike, as far as a window looks ahead."""
    last = len(forward) - num_ahead  # from here on, the end is in sight
    if position >= last:
        return position

    def ahead(start: int) -> list[tuple[SegmentKind, int]]:
        return [(segment.kind, segment.stage) for segment in forward[start : start + num_ahead]]

    wanted = ahead(position)
    return next(start for start in range(position + 1) if ahead(start) == wanted)


@cache
def _bucket(size: int, an_octave: int) -> int:
    return ceil(2 ** (ceil(log2(size) * an_octave) / an_octave))
