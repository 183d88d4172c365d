"""The segments of a forward, in order. Reported to the controller, which plans them; run by the executor.

embed | attention, all-reduce, MLP, all-reduce, … | head, gather, sample

Of several stages each but the last ends with a send, each but the first begins with a receive; what was drawn goes from
the last stage to the first, where the next forward begins.
"""

from collections.abc import Sequence

from liger.domain import BatchKind, Lane, SegmentKind
from liger.errors import ConfigError
from liger.schedule import Segment
from worker.shards.spec import HeadKind, ModelSpec

Forwards = dict[BatchKind, tuple[Segment, ...]]


def forwards(spec: ModelSpec, stage_layers: Sequence[int]) -> Forwards:
    """Return the segments of each kind of batch that a model can run, stage after stage.

    Args:
        spec: The model.
        stage_layers: Layers of each stage.

    Raises:
        ConfigError: They are not as many as the model's.
    """
    if sum(stage_layers) != spec.num_layers or min(stage_layers) < 1:
        stages = " + ".join(map(str, stage_layers))
        raise ConfigError(f"stages of {stages} layers do not make up the model's {spec.num_layers} layers")
    last = len(stage_layers) - 1
    body = _body(stage_layers)
    body.append(_compute(SegmentKind.HEAD, spec.num_layers, last))
    if spec.head is not HeadKind.LANGUAGE:
        return {BatchKind.ENCODE: tuple(body)}
    gather = _communicate(SegmentKind.GATHER, spec.num_layers, last)
    drawing = [*body, gather, _compute(SegmentKind.SAMPLE, spec.num_layers, last)]
    if last > 0:
        drawing.append(_communicate(SegmentKind.SEND, spec.num_layers, last, peer=0))
        drawing.append(_communicate(SegmentKind.RECEIVE, spec.num_layers, 0, peer=last))
    return {BatchKind.ENCODE: (*body, gather), BatchKind.PREFILL: tuple(drawing), BatchKind.DECODE: tuple(drawing)}


def is_feedback(segment: Segment) -> bool:
    """Return whether a send or receive carries drawn tokens back, and not activations on."""
    assert segment.peer is not None, "a send or receive has a peer"
    sends = segment.kind is SegmentKind.SEND
    source, target = (segment.stage, segment.peer) if sends else (segment.peer, segment.stage)
    return source > target


def _body(stage_layers: Sequence[int]) -> list[Segment]:
    """Return the segments from the embeddings to the last layer's."""
    body = [_compute(SegmentKind.EMBED, 0, 0)]
    layer = 0
    for stage, num_layers in enumerate(stage_layers):
        if stage > 0:
            body.append(_communicate(SegmentKind.SEND, layer - 1, stage - 1, peer=stage))
            body.append(_communicate(SegmentKind.RECEIVE, layer, stage, peer=stage - 1))
        for _ in range(num_layers):
            for kind in (SegmentKind.ATTENTION, SegmentKind.MLP):
                body += [_compute(kind, layer, stage), _communicate(SegmentKind.ALL_REDUCE, layer, stage)]
            layer += 1
    return body


def _compute(kind: SegmentKind, layer: int, stage: int) -> Segment:
    return Segment(kind=kind, lane=Lane.COMPUTE, layer=layer, stage=stage)


def _communicate(kind: SegmentKind, layer: int, stage: int, peer: int | None = None) -> Segment:
    return Segment(kind=kind, lane=Lane.COMMUNICATION, layer=layer, peer=peer, stage=stage)
