"""Forwards of made-up models, as a rank would report them, and windows of them."""

from collections.abc import Sequence
from types import SimpleNamespace

from liger.digest import order_digest, pattern_digest
from liger.domain import Axis, BatchKind, Fence
from liger.schedule import BatchStart, Pattern, Piece, Segment, Step, Window
from worker.segments import Forwards, forwards
from worker.shards.spec import HeadKind

FENCE = Fence(leader_term=1, group="g", epoch=1)


def forwards_of(*stage_layers: int) -> Forwards:
    """Return the forwards of a language model with so many layers in each stage."""
    return forwards(SimpleNamespace(num_layers=sum(stage_layers), head=HeadKind.LANGUAGE), stage_layers)


def step_of(
    segments: Sequence[Segment],
    place: int,
    *,
    operand: int = 0,
    begin: int = 0,
    piece: tuple[int, int] | None = None,
    tp_size: int = 1,
) -> Step:
    """Return the launch of a batch's segment at `place` of its forward, in a window where it stands at `begin`."""
    segment = segments[place]
    first = segment.stage * tp_size
    has_stages = any(other.stage for other in segments)
    return Step(
        operand=operand,
        segment=place - begin,
        lane=segment.lane,
        piece=Piece(axis=Axis.ROWS, index=piece[0], count=piece[1]) if piece else None,
        participants=tuple(range(first, first + tp_size)) if has_stages else (),
    )


def pattern_of(steps: Sequence[Step], *operands: BatchKind) -> Pattern:
    """Return steps as a pattern."""
    return Pattern(id=pattern_digest(operands, steps), operands=operands, steps=tuple(steps))


def window_of(
    pattern: Pattern, number: int, batch_ids: Sequence[int], starts: Sequence[BatchStart] = (), **more: object
) -> Window:
    """Return a window of a pattern."""
    return Window(
        fence=FENCE,
        number=number,
        pattern_id=pattern.id,
        batch_ids=tuple(batch_ids),
        batch_starts=tuple(starts),
        order_digest=order_digest(pattern.id, batch_ids),
        **more,
    )
