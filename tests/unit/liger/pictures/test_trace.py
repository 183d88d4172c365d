import itertools
import json
from collections import defaultdict

from liger.pictures.trace import trace
from tests.support.plans import ALL_REDUCE, MLP, MS, span, two_batches


def events(found, phase):
    return [event for event in found["traceEvents"] if event["ph"] == phase]


def test_a_trace_is_json_of_the_trace_event_format():
    found = json.loads(json.dumps(trace(two_batches().spans)))
    for event in events(found, "X"):
        assert {"name", "cat", "pid", "tid", "ts", "dur", "args"} <= event.keys()
        assert isinstance(event["ts"], float)
        assert event["dur"] > 0
    assert len(events(found, "X")) == 7
    assert {event["ph"] for event in found["traceEvents"]} == {"X", "M"}


def test_a_segment_names_its_batch_layer_and_piece():
    first, *_, last = events(trace((span(7, MLP, 5, 6, window=4), span(8, MLP, 6, 7, piece=1, num_pieces=2))), "X")
    assert first["name"] == "encode 7 mlp L0"
    assert first["args"] == {"batch": 7, "tokens": 256, "window": 4}
    assert last["name"] == "encode 8 mlp L0 2/2"
    assert last["args"]["piece"] == "2 of 2"


def test_ranks_are_processes_and_lanes_threads():
    found = trace([*two_batches().spans, span(1, MLP, 0, 20, rank=1)])
    named = {
        (event["pid"], event["tid"]): event["args"]["name"] for event in events(found, "M") if "name" in event["args"]
    }
    by_lane = defaultdict(set)
    for event in events(found, "X"):
        by_lane[event["pid"], named[event["pid"], event["tid"]]].add(event["cat"])
    assert by_lane == {
        (0, "compute"): {"attention", "mlp"},
        (0, "communication"): {"all_reduce"},
        (1, "compute"): {"mlp"},
    }
    assert named[1, 0] == "rank 1"


def test_times_are_microseconds_from_the_first_begin_of_ranks_that_share_a_clock():
    spans = (span(1, MLP, 1000, 1002), span(1, MLP, 1001, 1003.5, rank=1))
    found = trace(spans)
    assert [(event["ts"], event["dur"]) for event in events(found, "X")] == [(0.0, 2000.0), (1000.0, 2500.0)]
    assert found["otherData"]["clock"] == "shared by the ranks"


def test_ranks_of_other_machines_are_laid_over_one_another_by_their_newest_ends():
    spans = (span(1, MLP, 1000, 1010), span(1, MLP, 900_000, 900_004, rank=1))
    found = trace(spans)
    assert [event["ts"] for event in events(found, "X")] == [0.0, 6000.0]
    assert "own" in found["otherData"]["clock"]


def test_spans_of_a_thread_never_overlap():
    spans = [span(1, ALL_REDUCE, 0, 10), span(2, ALL_REDUCE, 5, 12), span(3, ALL_REDUCE, 10, 11)]
    by_thread = defaultdict(list)
    for event in events(trace(spans), "X"):
        by_thread[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert sorted(map(len, by_thread.values())) == [1, 2]
    for times in by_thread.values():
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(times))


def test_nothing_gives_an_empty_trace():
    assert trace(())["traceEvents"] == []


def test_begins_keep_their_nanoseconds_late_in_a_machines_life():
    late_ms = 400 * 24 * 3600 * 1000
    first, second = events(trace((span(1, MLP, late_ms, late_ms + 1), span(1, MLP, late_ms + 1, late_ms + 2))), "X")
    assert second["ts"] == first["ts"] + first["dur"] == MS / 1000
