"""The segments of a forward, in order. Reported to the controller, which plans them; run by the executor.

embed | attention, all-reduce, MLP, all-reduce, … | head, gather, sample
"""

from liger.domain import BatchKind, Lane, SegmentKind
from liger.schedule import Segment
from worker.shards.spec import HeadKind, ModelSpec

Forwards = dict[BatchKind, tuple[Segment, ...]]


def forwards(spec: ModelSpec) -> Forwards:
    """Return the segments of each kind of batch that a model can run on one stage."""
    body = [_compute(SegmentKind.EMBED, 0)]
    for layer in range(spec.num_layers):
        body += [_compute(SegmentKind.ATTENTION, layer), _communicate(SegmentKind.ALL_REDUCE, layer)]
        body += [_compute(SegmentKind.MLP, layer), _communicate(SegmentKind.ALL_REDUCE, layer)]
    body.append(_compute(SegmentKind.HEAD, spec.num_layers))
    if spec.head is not HeadKind.LANGUAGE:
        return {BatchKind.ENCODE: tuple(body)}
    gather = _communicate(SegmentKind.GATHER, spec.num_layers)
    sample = _compute(SegmentKind.SAMPLE, spec.num_layers)
    drawing = (*body, gather, sample)
    return {BatchKind.ENCODE: (*body, gather), BatchKind.PREFILL: drawing, BatchKind.DECODE: drawing}


def _compute(kind: SegmentKind, layer: int) -> Segment:
    return Segment(kind=kind, lane=Lane.COMPUTE, layer=layer)


def _communicate(kind: SegmentKind, layer: int) -> Segment:
    return Segment(kind=kind, lane=Lane.COMMUNICATION, layer=layer)
