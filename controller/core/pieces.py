"""Cuts a batch's segments in pieces: MLPs by tokens, each with its part of the exchange after it, exchanges by rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from liger.domain import Axis, Lane, SegmentKind
from liger.schedule import Piece, Segment


@dataclass(frozen=True, slots=True)
class Pieces:
    """In how many pieces a batch's segments are cut."""

    mlp: int = 1  # and the exchanges after MLPs
    exchange: int = 1  # all-reduces after whole segments


WHOLE: Final = Pieces()


@dataclass(frozen=True, slots=True)
class Part:
    """A segment, or a piece of one."""

    offset: int  # the segment's, from the batch's position
    segment: Segment
    after: int  # the part that it waits for, -1 for none
    piece: Piece | None = None

    @property
    def count(self) -> int:
        """Parts of its segment."""
        return self.piece.count if self.piece else 1


def cut(segments: Sequence[Segment], pieces: Pieces) -> tuple[Part, ...]:
    """Return the parts of segments in order."""
    parts: list[Part] = []
    offset = 0
    while offset < len(segments):
        if pieces.mlp > 1 and _is_pair(segments[offset : offset + 2]):
            for index in range(pieces.mlp):
                piece = Piece(axis=Axis.ROWS, index=index, count=pieces.mlp)
                computes_after = len(parts) - (2 if index > 0 else 1)  # the piece before it, not that one's exchange
                parts.append(Part(offset, segments[offset], computes_after, piece))
                parts.append(Part(offset + 1, segments[offset + 1], len(parts) - 1, piece))
            offset += 2
            continue
        count = pieces.exchange if segments[offset].kind is SegmentKind.ALL_REDUCE else 1
        for index in range(count):
            some = Piece(axis=Axis.ROWS, index=index, count=count) if count > 1 else None
            parts.append(Part(offset, segments[offset], len(parts) - 1, some))
        offset += 1
    return tuple(parts)


def may_end_before(parts: Sequence[Part], count: int) -> bool:
    """Return whether a window may end before part `count`: no decomposed segment is left half done."""
    part = parts[count]
    if part.piece is None:
        return True
    is_paired = part.segment.lane is Lane.COMMUNICATION and count > 0 and parts[count - 1].piece is not None
    return part.piece.index == 0 and not is_paired


def _is_pair(pair: Sequence[Segment]) -> bool:
    kinds = [segment.kind for segment in pair]
    return kinds == [SegmentKind.MLP, SegmentKind.ALL_REDUCE] and pair[0].layer == pair[1].layer
