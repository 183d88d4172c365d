"""A made-up language model: its forwards, and what ranks would measure of it."""

from itertools import product
from typing import Final

from controller.core.cost_model import EXCHANGES
from controller.core.plan import Forwards
from liger.domain import BatchKind, Lane, SegmentKind
from liger.profile import ContentionSample, ProfileTable, SegmentSample
from liger.schedule import Segment

_SHARES: Final = {
    SegmentKind.EMBED: 0.1,
    SegmentKind.ATTENTION: 1.0,
    SegmentKind.MLP: 2.0,
    SegmentKind.HEAD: 0.5,
    SegmentKind.SAMPLE: 0.2,
    SegmentKind.ALL_REDUCE: 1.5,
    SegmentKind.GATHER: 0.1,
}
_LAYER: Final = (SegmentKind.ATTENTION, SegmentKind.ALL_REDUCE, SegmentKind.MLP, SegmentKind.ALL_REDUCE)


def made_forwards(num_layers: int) -> Forwards:
    """Return the forwards of a language model."""

    def segment(kind: SegmentKind, layer: int) -> Segment:
        return Segment(kind=kind, lane=Lane.COMMUNICATION if kind in EXCHANGES else Lane.COMPUTE, layer=layer)

    body = [segment(SegmentKind.EMBED, 0), *(segment(kind, layer) for layer in range(num_layers) for kind in _LAYER)]
    ends = [segment(kind, num_layers) for kind in (SegmentKind.HEAD, SegmentKind.GATHER, SegmentKind.SAMPLE)]
    drawing = (*body, *ends)
    return {BatchKind.ENCODE: (*body, *ends[:2]), BatchKind.PREFILL: drawing, BatchKind.DECODE: drawing}


def made_duration_ns(segment: SegmentKind, num_tokens: int, *, floor_ns: int, token_ns: int) -> int:
    """Return how long a segment takes, in which its share of a floor and of a time for each token is."""
    return round(_SHARES[segment] * (floor_ns + token_ns * num_tokens))


def made_profile(*, floor_ns: int, token_ns: int) -> ProfileTable:
    """Return what ranks would measure of segments that take so long (see `made_duration_ns`)."""
    samples = tuple(
        SegmentSample(
            batch=None if kind in EXCHANGES else batch,
            segment=kind,
            num_tokens=num_tokens,
            context=0,
            duration_ns=made_duration_ns(kind, num_tokens, floor_ns=floor_ns, token_ns=token_ns),
        )
        for batch, kind, num_tokens in product(BatchKind, _SHARES, (1, 4096))
    )
    beside = ContentionSample(
        compute=SegmentKind.MLP,
        compute_tokens=128,
        communication_bytes=128 * 4096,
        compute_factor=1.1,
        communication_factor=1.2,
    )
    return ProfileTable(key="made up", activation_bytes=4096, segments=samples, contention=(beside,))
