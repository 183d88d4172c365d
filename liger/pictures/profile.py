"""A profile as curves: durations over tokens."""

from collections import defaultdict
from operator import itemgetter
from typing import Final

from liger.domain import BatchKind, SegmentKind
from liger.pictures.curves import Curve
from liger.profile import ProfileTable, SegmentSample

_NS_PER_MS: Final = 1e6

Kind = tuple[int, SegmentKind]


def profile_curves(table: ProfileTable) -> list[Curve]:
    """Return a line for each segment kind of each batch kind; where context counts, for the least and the most."""
    by_kind: defaultdict[Kind, defaultdict[int, list[SegmentSample]]] = defaultdict(lambda: defaultdict(list))
    for sample in table.segments:
        if sample.duration_ns:
            by_kind[sample.batch or 0, sample.segment][sample.context].append(sample)
    return [
        _curve(kind_name(*kind, context), contexts[context])
        for kind, contexts in sorted(by_kind.items(), key=itemgetter(0))
        for context in sorted({min(contexts), max(contexts)})
    ]


def kind_name(batch: int, segment: SegmentKind, context: int) -> str:
    """Return what a row of a profile is called, such as decode attention, 512 behind."""
    name = segment.name.lower().replace("_", "-")
    name = f"{BatchKind(batch).name.lower()} {name}" if batch else name
    return f"{name}, {context} behind" if context else name


def _curve(name: str, samples: list[SegmentSample]) -> Curve:
    points = sorted((float(sample.num_tokens), sample.duration_ns / _NS_PER_MS) for sample in samples)
    return Curve(name=name, points=tuple(points))
