"""Small plans and profiles, made up, whose pictures can be told by heart."""

from liger.domain import BatchKind, Lane, SegmentKind
from liger.profile import ContentionSample, ProfileTable, SegmentSample
from liger.spans import LaneSpan
from liger.views import Correction, Explained, ProfileView

MS = 1_000_000
ATTENTION, ALL_REDUCE, MLP = SegmentKind.ATTENTION, SegmentKind.ALL_REDUCE, SegmentKind.MLP


def span(
    batch_id: int,
    segment: SegmentKind,
    begin_ms: float,
    end_ms: float,
    *,
    rank: int = 0,
    piece: int = 0,
    num_pieces: int = 1,
    num_tokens: int = 256,
    window: int = 1,
) -> LaneSpan:
    """Return a span of an encode batch's layer 0, on the lane of its kind."""
    exchanges = {ALL_REDUCE, SegmentKind.GATHER, SegmentKind.SEND, SegmentKind.RECEIVE}
    return LaneSpan(
        rank=rank,
        lane=Lane.COMMUNICATION if segment in exchanges else Lane.COMPUTE,
        batch_id=batch_id,
        batch=BatchKind.ENCODE,
        num_tokens=num_tokens,
        segment=segment,
        layer=0,
        piece=piece,
        num_pieces=num_pieces,
        window=window,
        begin_ns=round(begin_ms * MS),
        end_ns=round(end_ms * MS),
    )


def two_batches() -> Explained:
    """Return batches of 10 ms compute and 4 ms exchange each: 8 ms of 8 are hidden but the last exchange's last 2."""
    spans = (
        span(1, ATTENTION, 0, 4),
        span(1, ALL_REDUCE, 4, 8),
        span(2, ATTENTION, 4, 8, num_tokens=128),
        span(1, MLP, 8, 14),
        span(2, ALL_REDUCE, 8, 12, num_tokens=128),
        span(2, MLP, 14, 17, piece=0, num_pieces=2, num_tokens=128),
        span(2, MLP, 17, 20, piece=1, num_pieces=2, num_tokens=128),
    )
    return Explained(spans=spans, makespan_ns=20 * MS, serial_ns=28 * MS, finish_ns=(14 * MS, 20 * MS), cost_version=3)


def small_profile() -> ProfileView:
    """Return what two ranks could have measured."""

    def sample(
        batch: BatchKind | None, segment: SegmentKind, num_tokens: int, context: int, ms: float
    ) -> SegmentSample:
        return SegmentSample(
            batch=batch, segment=segment, num_tokens=num_tokens, context=context, duration_ns=round(ms * MS)
        )

    table = ProfileTable(
        key="tiny float32 2 ranks",
        activation_bytes=4096,
        segments=(
            sample(BatchKind.ENCODE, MLP, 128, 0, 3.0),
            sample(BatchKind.ENCODE, MLP, 256, 0, 6.0),
            sample(BatchKind.DECODE, ATTENTION, 1, 64, 0.25),
            sample(BatchKind.DECODE, ATTENTION, 1, 512, 0.5),
            sample(None, ALL_REDUCE, 128, 0, 2.0),
            sample(None, ALL_REDUCE, 256, 0, 4.0),
        ),
        contention=(
            ContentionSample(
                compute=MLP,
                compute_tokens=128,
                communication_bytes=1 << 20,
                compute_factor=1.25,
                communication_factor=1.5,
            ),
        ),
    )
    corrections = (Correction(batch=None, segment=ALL_REDUCE, factor=1.1, num_observations=40),)
    return ProfileView(table=table, corrections=corrections, prediction_error=0.034)
