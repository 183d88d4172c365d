"""How batches and lanes are called in pictures."""

from collections.abc import Iterable
from string import ascii_uppercase
from typing import Final

from liger.domain import Lane
from liger.spans import LaneSpan

COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#7f7f7f")
"""Told apart by most eyes, also by colour-blind ones (Okabe and Ito)."""


def letter(place: int) -> str:
    """Return the letter of the batch at a place, from 0."""
    return ascii_uppercase[place % len(ascii_uppercase)]


def colour(place: int) -> str:
    """Return the colour of the batch at a place, from 0."""
    return COLOURS[place % len(COLOURS)]


def places(spans: Iterable[LaneSpan]) -> dict[int, int]:
    """Return each batch's place among all, by id; ids grow with age."""
    return {batch_id: place for place, batch_id in enumerate(sorted({span.batch_id for span in spans}))}


def lanes(spans: Iterable[LaneSpan]) -> dict[tuple[int, Lane], list[LaneSpan]]:
    """Return each lane's spans in order, for both lanes of every stage or rank that there is."""
    found = list(spans)
    rows: dict[tuple[int, Lane], list[LaneSpan]] = {}
    for rank in sorted({span.rank for span in found}):
        rows |= {(rank, lane): [] for lane in Lane}
    for span in sorted(found, key=lambda each: each.begin_ns):
        rows[span.rank, span.lane].append(span)
    return rows


def lane_name(rank: int, lane: Lane, num_ranks: int) -> str:
    """Return what a plan's lane is called; the stage is left out where there is one."""
    return lane.name.lower() if num_ranks == 1 else f"stage {rank} {lane.name.lower()}"


def segment_name(span: LaneSpan) -> str:
    """Return what a segment is called, such as mlp L3 1/2."""
    name = f"{span.segment.name.lower()} L{span.layer}"
    return name if span.num_pieces == 1 else f"{name} {span.piece + 1}/{span.num_pieces}"
