"""How a batch goes through its forward in one window: segments in order, some of them in pieces. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from liger.domain import Axis, SegmentKind
from liger.errors import ScheduleRefusedError
from liger.schedule import Piece, Segment


@dataclass(slots=True)
class _Cut:
    """What has been launched of a segment that is cut in pieces."""

    launched: int = 0
    count: int = 0  # 0 while no piece was launched

    def add(self, piece: Piece) -> None:
        if piece.index != self.launched or self.count not in {0, piece.count}:
            raise ScheduleRefusedError(
                f"piece {piece.index} of {piece.count} came, {self.launched} of {self.count or piece.count} is due"
            )
        self.launched, self.count = self.launched + 1, piece.count

    @property
    def is_whole(self) -> bool:
        return 0 < self.count == self.launched


@dataclass(slots=True)
class Walk:
    """Follows one batch through one window.

    An all-reduce may come piece by piece beside the MLP before it, one piece behind at most as far as that has come.
    """

    segments: Sequence[Segment]  # of the batch's forward
    position: int  # the first segment that is not wholly launched
    _cut: _Cut = field(default_factory=_Cut)  # of the segment at `position`
    _ahead: _Cut = field(default_factory=_Cut)  # of the exchange after it

    def advance(self, place: int, piece: Piece | None) -> Segment:
        """Launch a segment or a piece of it, and return the segment.

        Raises:
            ScheduleRefusedError: It is not due.
        """
        if place == self.position < len(self.segments):
            self._launch_due(piece)
        elif place == self.position + 1 and piece is not None and self._may_run_ahead(piece):
            _check_piece(self.segments[place], piece)
            self._ahead.add(piece)
        else:
            due = f"{self.position} is due" if self.position < len(self.segments) else "the forward is over"
            raise ScheduleRefusedError(f"segment {place} came, {due}")
        return self.segments[place]

    @property
    def is_half(self) -> bool:
        """Whether pieces of a segment are still to come."""
        return self._cut.count > 0

    def _launch_due(self, piece: Piece | None) -> None:
        if piece is not None:
            _check_piece(self.segments[self.position], piece)
            self._cut.add(piece)
        elif self.is_half:
            raise ScheduleRefusedError(f"segment {self.position} came whole after some of its pieces")
        if piece is None or self._cut.is_whole:
            self.position += 1
            self._cut, self._ahead = self._ahead, _Cut()

    def _may_run_ahead(self, piece: Piece) -> bool:
        is_exchange = self.position + 1 < len(self.segments) and (
            self.segments[self.position + 1].kind is SegmentKind.ALL_REDUCE
        )
        return is_exchange and piece.count == self._cut.count and self._ahead.launched < self._cut.launched


def _check_piece(segment: Segment, piece: Piece) -> None:
    if segment.kind not in {SegmentKind.MLP, SegmentKind.ALL_REDUCE} or piece.axis is not Axis.ROWS:
        raise ScheduleRefusedError(f"a segment of kind {segment.kind.name} is not cut by {piece.axis.name}")
