import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gpu.data_plane import chosen_ms
from bench.gpu.figures import Mixed, PlaneTimes, choose_mixed, plane_figures, summarize

MS = st.floats(0.01, 1000.0)


def times(**changes) -> PlaneTimes:
    usual = {
        "compute": 1.0,
        "serial_nccl": 3.0,
        "serial_same_exchange": 2.5,
        "serial_others": {},
        "interleaved": {2: 1.6, 3: 1.75},
        "whole": 2.2,
    }
    return PlaneTimes(**{**usual, **changes})


def figures(own: PlaneTimes, *, num_ranks: int = 2, fits_one: bool = True):
    return plane_figures(own, num_ranks=num_ranks, exchange="copy-engine", fits_one=fits_one)


def test_what_is_hidden_is_a_share_of_the_shorter_lane():
    found = figures(times())
    assert found.communication_ms == pytest.approx(1.5)
    assert found.hideable_ms == pytest.approx(1.0)  # compute is the shorter
    assert found.hidden_fraction == pytest.approx(0.9)


def test_communication_is_the_shorter_lane_where_it_is():
    found = figures(times(compute=2.0, interleaved={2: 2.1}))
    assert found.hideable_ms == pytest.approx(0.5)
    assert found.hidden_fraction == pytest.approx(0.8)


def test_the_best_depth_and_the_best_serial_run_count():
    found = figures(times(serial_others={"symm-two-shot": 2.2, "symm-one-shot": 2.4}))
    assert (found.interleaved_ms, found.interleaved_depth) == (1.6, 2)
    assert (found.serial_best, found.serial_best_ms) == ("symm-two-shot", 2.2)
    assert found.gain_vs_best_serial == pytest.approx(2.2 / 1.6)
    assert found.gain_vs_nccl == pytest.approx(3.0 / 1.6)
    assert found.gain_vs_same_exchange == pytest.approx(2.5 / 1.6)


def test_bounds_are_those_of_the_busier_lane():
    found = figures(times())
    assert found.bound == pytest.approx(2.5 / 1.5)
    assert found.bound_vs_nccl == pytest.approx(3.0)


def test_where_nccl_is_no_baseline_nothing_is_said_of_it():
    found = figures(times(serial_nccl=None))
    assert (found.gain_vs_nccl, found.bound_vs_nccl) == (None, None)
    assert found.serial_best == "copy-engine"


def test_stages_and_copies_share_the_unsplit_time():
    assert figures(times(), num_ranks=4).pipeline_ms == pytest.approx(0.55)
    assert figures(times(), fits_one=False).independent_ms is None
    assert figures(times(whole=None)).pipeline_ms is None


def test_nothing_is_hidden_where_nothing_is_to_hide():
    assert figures(times(serial_same_exchange=1.0)).hidden_fraction is None


@given(compute=MS, communication=MS, hidden=st.floats(0, 1))
def test_a_gain_stays_within_its_bound_as_long_as_no_more_is_hidden_than_can_be(compute, communication, hidden):
    serial = compute + communication
    interleaved = serial - hidden * min(compute, communication)
    found = figures(times(compute=compute, serial_same_exchange=serial, interleaved={2: interleaved}))
    assert found.gain_vs_same_exchange <= found.bound * (1 + 1e-9)
    assert found.hidden_fraction == pytest.approx(hidden, abs=1e-6, rel=1e-3)


@pytest.mark.parametrize(("depth", "expected"), [(1, 2.5), (2, 1.6), (3, 1.75), (4, 1.75)])
def test_what_depth_control_chooses_is_taken_from_what_was_measured(depth, expected):
    assert chosen_ms(times(), depth) == expected


def mixed(gap: float, decodes: float, chunks: float) -> Mixed:
    return Mixed(steps_per_chunk=1, gap_p90_ms=gap, decode_per_s=decodes, chunks_per_s=chunks)


def test_gaps_are_compared_at_no_less_throughput_of_either_kind():
    serial = mixed(10.0, 100.0, 50.0)
    slow_decodes, slow_chunks, good, better = (
        mixed(1.0, 90.0, 60.0),
        mixed(2.0, 200.0, 40.0),
        mixed(6.0, 120.0, 49.5),
        mixed(5.0, 99.0, 55.0),
    )
    assert choose_mixed(serial, [slow_decodes, slow_chunks, good, better]) is better
    assert choose_mixed(serial, [slow_decodes, slow_chunks]) is None


def test_the_summary_has_medians_of_gains_and_the_worst_of_errors_by_shape():
    planes = [
        {"shape": "8b", "gain_vs_best_serial": gain, "gain_vs_nccl": None, "max_rel_error": error, "bound": 2.0}
        for gain, error in ((1.2, 0.01), (1.5, 0.02), (1.3, 0.005))
    ]
    decodes = [{"shape": "8b", "chosen_slower": 0.01, "mixed_p90_ratio": 0.7}, {"shape": "8b", "chosen_slower": 0.0}]
    found = summarize([*planes, {"shape": "70b", "gain_vs_best_serial": 1.1}], decodes)
    assert found["8b"]["throughput_vs_tensor"] == 1.3
    assert found["8b"]["least_gain_vs_best_serial"] == 1.2
    assert found["8b"]["max_rel_error"] == 0.02
    assert found["8b"]["throughput_vs_nccl"] is None
    assert found["8b"]["decode_slower_than_best"] == 0.01
    assert found["8b"]["decode_p90_vs_tensor_at_its_throughput"] == 0.7
    assert found["70b"]["throughput_vs_tensor"] == 1.1
