"""What ran, or is planned to run, on the lanes: one span a segment, and how much of the communication is hidden."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from liger.domain import BatchKind, Lane, SegmentKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSpan:
    """One segment, or a piece of one, on a lane."""

    rank: int  # that ran it; in plans the stage
    lane: Lane
    batch_id: int
    batch: BatchKind
    num_tokens: int  # of the batch
    segment: SegmentKind
    layer: int
    piece: int = 0  # which piece of a decomposed segment
    num_pieces: int = 1  # 1 for whole segments
    window: int  # it was launched in; in plans the window's place, from 1
    begin_ns: int  # of plans from their begin, of timelines on the rank's own monotonic clock
    end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneUse:
    """Where a rank's time went, in nanoseconds; nothing counts twice."""

    extent_ns: int = 0  # from the first begin to the last end
    compute_ns: int = 0  # the compute lane was busy
    communication_ns: int = 0  # the communication lane was busy
    hidden_ns: int = 0  # a batch communicated while another batch computed

    @property
    def hideable_ns(self) -> int:
        """Return the longest time that communication could lie under compute."""
        return min(self.compute_ns, self.communication_ns)


def lane_use(spans: Iterable[LaneSpan]) -> dict[int, LaneUse]:
    """Return where the time of each rank (of plans: stage) went, by rank."""
    by_rank: defaultdict[int, list[LaneSpan]] = defaultdict(list)
    for span in spans:
        by_rank[span.rank].append(span)
    return {rank: _use(by_rank[rank]) for rank in sorted(by_rank)}


def hidden_share(spans: Iterable[LaneSpan]) -> float | None:
    """Return the share of the hideable communication that lay under another batch's compute; None if there is none."""
    uses = lane_use(spans).values()
    hideable_ns = sum(use.hideable_ns for use in uses)
    return sum(use.hidden_ns for use in uses) / hideable_ns if hideable_ns else None


class _Edge(NamedTuple):
    at_ns: int
    change: int  # +1 where a span begins, -1 where it ends
    lane: Lane
    batch_id: int


def _use(spans: Sequence[LaneSpan]) -> LaneUse:
    compute_ns = communication_ns = hidden_ns = 0
    for lasted_ns, computing, communicating in _stretches(spans):
        compute_ns += lasted_ns if computing else 0
        communication_ns += lasted_ns if communicating else 0
        apart = computing and communicating and len(computing.keys() | communicating.keys()) > 1
        hidden_ns += lasted_ns if apart else 0
    extent_ns = max(span.end_ns for span in spans) - min(span.begin_ns for span in spans)
    return LaneUse(extent_ns=extent_ns, compute_ns=compute_ns, communication_ns=communication_ns, hidden_ns=hidden_ns)


def _stretches(spans: Iterable[LaneSpan]) -> Iterator[tuple[int, Counter[int], Counter[int]]]:
    """Yield how long each stretch between two edges lasts, and the batches that compute and communicate in it."""
    active: dict[Lane, Counter[int]] = {lane: Counter() for lane in Lane}
    since_ns = 0
    for edge in sorted(_edges(spans)):
        if edge.at_ns > since_ns:
            yield edge.at_ns - since_ns, active[Lane.COMPUTE], active[Lane.COMMUNICATION]
            since_ns = edge.at_ns
        batches = active[edge.lane]
        batches[edge.batch_id] += edge.change
        if not batches[edge.batch_id]:
            del batches[edge.batch_id]


def _edges(spans: Iterable[LaneSpan]) -> Iterator[_Edge]:
    for span in spans:
        if span.end_ns > span.begin_ns:
            yield _Edge(span.begin_ns, 1, span.lane, span.batch_id)
            yield _Edge(span.end_ns, -1, span.lane, span.batch_id)
