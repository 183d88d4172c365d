"""How busy the lanes of a group were for each token, and how well they covered one another."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from liger.cluster_views import fetch_timeline
from liger.domain import SegmentKind
from liger.errors import LigerError
from liger.spans import LaneSpan, lane_use

_EDGE: Final = 0.15  # share of a point's time at its begin and at its end in which batches are not full


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """A group's lanes while it was busy."""

    compute_s_per_token: float  # of the rank that computed longest
    communication_s_per_token: float  # of the rank that communicated longest
    covered_share: float  # of the hideable communication, what lay under another batch's compute; over all ranks


async def read_lanes(controller: str, group: str, last_s: float) -> Lanes | None:
    """Ask the controller what ran lately; None if it does not tell."""
    try:
        spans = await fetch_timeline(controller, group, last_s)
    except LigerError:
        return None
    return measure_lanes(spans)


def measure_lanes(spans: Sequence[LaneSpan]) -> Lanes | None:
    """Return how busy the lanes were, begin and end left out; None if nothing ran."""
    by_rank: defaultdict[int, list[LaneSpan]] = defaultdict(list)
    for span in spans:
        by_rank[span.rank].append(span)
    middles = [_middle(own) for own in by_rank.values()]
    counted = [
        (num_tokens, use) for own in middles if (num_tokens := count_tokens(own)) for use in lane_use(own).values()
    ]
    if not counted:
        return None
    hideable_ns = sum(use.hideable_ns for _, use in counted)
    return Lanes(
        compute_s_per_token=max(use.compute_ns / num_tokens for num_tokens, use in counted) / 1e9,
        communication_s_per_token=max(use.communication_ns / num_tokens for num_tokens, use in counted) / 1e9,
        covered_share=sum(use.hidden_ns for _, use in counted) / hideable_ns if hideable_ns else 0.0,
    )


def count_tokens(spans: Sequence[LaneSpan]) -> float:
    """Return how many tokens went through a rank's layers; a batch that is cut off counts in part."""
    attention = [span for span in spans if span.segment is SegmentKind.ATTENTION]
    num_layers = len({span.layer for span in attention})
    return sum(span.num_tokens / span.num_pieces for span in attention) / max(num_layers, 1)


def _middle(spans: Sequence[LaneSpan]) -> list[LaneSpan]:
    begin_ns, end_ns = min(span.begin_ns for span in spans), max(span.end_ns for span in spans)
    edge_ns = int((end_ns - begin_ns) * _EDGE)
    return [span for span in spans if span.begin_ns >= begin_ns + edge_ns and span.end_ns <= end_ns - edge_ns]
