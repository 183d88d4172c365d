from dataclasses import replace

import pytest

from bench.link.clusters import SILENT
from bench.link.runs import AT_LOW_LOAD, AT_PIPELINE, AT_TENSOR, choose_rates, num_points
from bench.link.summary import Points, compare, crossing_rate, curves, find_bounds
from tests.unit.bench.link.points import at_rate, busy, figures, lanes


def saturated() -> list:
    """Tensor 10 ms a token: 7 compute, 3 communication; interleaved 8 ms; pipeline 9 ms."""
    return [
        busy("tensor", 100.0, lanes=lanes(0.007, 0.003)),
        busy("interleaved", 125.0, lanes=lanes(0.007, 0.003, covered_share=0.75)),
        busy("pipeline", 1 / 0.009, lanes=lanes(0.0085, 0.001)),
        busy(SILENT, 1 / 0.007),
    ]


def test_the_hidden_fraction_is_the_time_won_by_the_time_that_can_be_hidden():
    points = Points(saturated())
    bounds = find_bounds(points)
    found = compare(points, bounds)
    assert found.hidden_fraction == pytest.approx((0.010 - 0.008) / 0.003)
    assert found.throughput_vs_tensor == pytest.approx(1.25)
    assert found.throughput_vs_pipeline == pytest.approx(9 / 8)
    assert bounds.throughput_vs_tensor == pytest.approx(10 / 7)
    assert bounds.hideable_s == pytest.approx(0.003)
    assert bounds.covered_share == 0.75


def test_without_a_timeline_communication_is_what_tensor_takes_beyond_compute():
    points = Points([busy("tensor", 100.0), busy("interleaved", 125.0), busy(SILENT, 1 / 0.006)])
    bounds = find_bounds(points)
    assert bounds.communication_from == "difference"
    assert bounds.communication_s == pytest.approx(0.004)
    assert bounds.pipeline_is_valid is None


@pytest.mark.parametrize(("ideal_s", "is_valid"), [(0.0082, True), (0.0080, False)])
def test_a_pipeline_below_nine_tenths_of_its_ideal_is_invalid(ideal_s, is_valid):
    bounds = find_bounds(Points([busy("pipeline", 1 / 0.009, lanes=lanes(ideal_s, 0.001))]))
    assert bounds.pipeline_share_of_ideal == pytest.approx(ideal_s / 0.009)
    assert bounds.pipeline_is_valid is is_valid


def test_ratios_compare_points_of_the_same_round():
    runs = [busy("tensor", 100.0, round=1), busy("tensor", 50.0, round=2), busy("tensor", 80.0, round=3)]
    runs += [busy("interleaved", 130.0, round=1), busy("interleaved", 65.0, round=2)]
    points = Points(runs)
    assert points.ratio("interleaved", "tensor", "saturation", lambda run: run.figures.tokens_per_s) == 1.3
    assert points.median("tensor", "saturation", lambda run: run.figures.tokens_per_s) == 80


def test_latencies_are_compared_where_the_issue_says():
    runs = [
        *saturated(),
        *(at_rate(name, AT_LOW_LOAD, 1.0, p90) for name, p90 in (("tensor", 0.10), ("pipeline", 0.20))),
        at_rate("interleaved", AT_LOW_LOAD, 1.0, 0.101),
        at_rate("tensor", AT_TENSOR, 10.0, 1.0),
        at_rate("interleaved", AT_TENSOR, 10.0, 0.4),
        at_rate("pipeline", AT_PIPELINE, 11.0, 1.0),
        at_rate("interleaved", AT_PIPELINE, 11.0, 0.6),
    ]
    found = compare(Points(runs), find_bounds(Points(runs)))
    assert found.low_load_p90_vs_best == pytest.approx(1.01)
    assert found.p90_vs_tensor_at_its_saturation == pytest.approx(0.4)
    assert found.p90_vs_pipeline_at_its_throughput == pytest.approx(0.6)


def test_what_was_not_measured_is_unknown():
    found = compare(Points([busy("tensor", 100.0)]), find_bounds(Points([busy("tensor", 100.0)])))
    assert found.throughput_vs_tensor is None
    assert found.hidden_fraction is None
    assert found.low_load_p90_vs_best is None


def test_points_at_which_all_calls_failed_do_not_count():
    runs = [at_rate("tensor", AT_TENSOR, 10.0, float("nan")), at_rate("tensor", AT_TENSOR, 10.0, 0.5, round=2)]
    assert Points(runs).curve("tensor") == ((10.0, 0.5),)
    assert Points([busy("tensor", 0.0), busy("interleaved", 5.0)]).ratio(
        "interleaved", "tensor", "saturation", lambda run: run.figures.tokens_per_s
    ) is None  # fmt: skip


def test_points_at_which_calls_failed_are_left_out_and_counted():
    broken = replace(busy("interleaved", 500.0, round=2), figures=figures(num_calls=100, num_failed=2))
    points = Points([*saturated(), broken])
    assert points.num_left_out == 1
    assert points.median("interleaved", "saturation", lambda run: run.figures.tokens_per_s) == 125


def test_curves_go_by_rate_and_cross_between_points():
    runs = [at_rate("a", "high", 4.0, 0.4), at_rate("a", "low", 2.0, 0.1)]
    runs += [at_rate("b", "low", 2.0, 0.2), at_rate("b", "high", 4.0, 0.2)]
    found = curves(Points(runs), ("a", "b", "absent"))
    assert found == {"a": ((2.0, 0.1), (4.0, 0.4)), "b": ((2.0, 0.2), (4.0, 0.2))}
    assert crossing_rate(found["a"], found["b"]) == pytest.approx(3.0)  # halfway, by the logarithm
    assert crossing_rate(found["b"], found["a"]) == pytest.approx(3.0)


def test_curves_that_stay_apart_do_not_cross():
    low, high = ((1.0, 0.1), (2.0, 0.2)), ((1.0, 0.2), (2.0, 0.3))
    assert crossing_rate(low, high) is None
    assert crossing_rate(low, low) is None
    assert crossing_rate(low, ()) is None


def test_rates_are_shares_of_what_the_strategies_sustain_in_order():
    sustained = {"tensor": 10.0, "interleaved": 14.0, "pipeline": 11.5}
    assert [point.rate for point in choose_rates(sustained, quick=False)] == pytest.approx(
        [1.0, 5.0, 8.0, 9.5, 10.0, 11.5, 12.0, 12.6]
    )
    assert [point.label for point in choose_rates(sustained, quick=True)] == [AT_LOW_LOAD, AT_TENSOR, AT_PIPELINE]
    assert num_points(("tensor",), quick=False) == 6
    assert num_points(("tensor", "pipeline", "interleaved"), quick=True) == 7
