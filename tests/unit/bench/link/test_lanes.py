import pytest

from bench.link.lanes import count_tokens, measure_lanes, read_lanes
from liger.domain import BatchKind, Lane, SegmentKind
from liger.spans import LaneSpan

SECOND = 1_000_000_000


def span(begin_s: float, end_s: float, **values) -> LaneSpan:
    usual = {
        "rank": 0, "lane": Lane.COMPUTE, "batch_id": 1, "batch": BatchKind.ENCODE, "num_tokens": 100, "window": 1,
        "segment": SegmentKind.ATTENTION, "layer": 0, "begin_ns": int(begin_s * SECOND), "end_ns": int(end_s * SECOND),
    }  # fmt: skip
    return LaneSpan(**{**usual, **values})


def serial(rank: int = 0) -> list[LaneSpan]:
    """Return a hundred batches of 100 tokens, one after another: 0.6 s of compute, then 0.4 s of communication."""
    spans = []
    for batch in range(100):
        own = {"batch_id": batch, "rank": rank}
        spans.append(span(batch, batch + 0.6, **own))
        exchange = {"lane": Lane.COMMUNICATION, "segment": SegmentKind.ALL_REDUCE}
        spans.append(span(batch + 0.6, batch + 1, **own, **exchange))
    return spans


def test_a_serial_timeline_hides_nothing():
    found = measure_lanes(serial())
    assert found is not None
    assert found.compute_s_per_token == pytest.approx(0.006)
    assert found.communication_s_per_token == pytest.approx(0.004, rel=0.02)
    assert found.covered_share == 0


def test_the_covered_share_is_what_lay_under_another_batch():
    computing = [span(batch, batch + 1, batch_id=batch) for batch in range(100)]
    exchange = {"lane": Lane.COMMUNICATION, "segment": SegmentKind.ALL_REDUCE}
    others = [span(batch, batch + 0.5, batch_id=batch + 50, **exchange) for batch in range(100)]
    own = [span(batch + 0.5, batch + 1, batch_id=batch, **exchange) for batch in range(100)]
    found = measure_lanes(computing + others + own)
    assert found is not None
    assert found.covered_share == pytest.approx(0.5, rel=0.03)


def test_the_busiest_rank_counts():
    faster = [span(batch, batch + 0.1, batch_id=batch, rank=1) for batch in range(100)]
    found = measure_lanes(serial() + faster)
    assert found is not None
    assert found.compute_s_per_token == pytest.approx(0.006)


def test_a_token_counts_once_whatever_the_layers_and_pieces():
    layers = [span(layer, layer + 1, layer=layer) for layer in range(3)]
    halves = [span(5, 6, batch_id=2, layer=layer, piece=piece, num_pieces=2) for layer in range(3) for piece in (0, 1)]
    mlp = span(7, 8, segment=SegmentKind.MLP)
    assert count_tokens([*layers, *halves, mlp]) == 200


def test_nothing_that_ran_is_nothing_to_tell():
    assert measure_lanes([]) is None


async def test_a_controller_that_does_not_tell_is_no_error():
    assert await read_lanes("127.0.0.1:9", "group", 1.0) is None
