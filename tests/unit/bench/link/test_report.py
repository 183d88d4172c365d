import io
import json
from dataclasses import fields

import pytest
from rich.console import Console

from bench.link.clusters import SILENT
from bench.link.machine import CpuTime, describe_machine, read_cpu_time
from bench.link.report import describe_run, report_load, show, to_json, to_svg
from bench.link.runs import AT_TENSOR
from bench.link.settings import parse_orders
from bench.link.summary import Comparison
from bench.link.work import Load
from tests.unit.bench.link.points import at_rate, busy, lanes

SETTINGS = parse_orders([]).settings
MACHINE = describe_machine(
    CpuTime(total=100, stolen=0, idle=50), CpuTime(total=300, stolen=10, idle=100), threads_per_rank=1, load_before=0.5
)
RUNS = [
    busy("tensor", 100.0, lanes=lanes(0.007, 0.003)),
    busy("interleaved", 125.0),
    busy("pipeline", 90.0, lanes=lanes(0.008, 0.001)),
    busy(SILENT, 140.0),
    at_rate("tensor", AT_TENSOR, 1.0, 0.9),
    at_rate("interleaved", AT_TENSOR, 1.0, float("nan")),
]


@pytest.fixture
def report():
    return report_load(SETTINGS, Load.DISCRIMINATIVE, RUNS)


def test_the_json_holds_runs_and_the_summary_that_the_issue_asks_for(report):
    table = json.loads(to_json(SETTINGS, MACHINE, [report]))
    assert len(table["runs"]) == len(RUNS)
    assert {"load", "strategy", "round", "label", "rate", "figures", "lanes"} <= set(table["runs"][0])
    summary = table["summary"]["discriminative"]
    assert list(summary) == [field.name for field in fields(Comparison)]
    assert summary["throughput_vs_tensor"] == 1.25
    assert table["bounds"]["discriminative"]["throughput_vs_tensor"] == pytest.approx(1.4)
    assert table["machine"]["steal_percent"] == 5
    assert table["settings"]["rate"] == "500mbit"


def test_numbers_that_json_does_not_know_are_null(report):
    text = to_json(SETTINGS, MACHINE, [report])
    assert "NaN" not in text
    assert json.loads(text)["summary"]["discriminative"]["p90_vs_tensor_at_its_saturation"] is None


def test_the_tables_show_every_strategy_and_mark_an_unworthy_pipeline(report):
    output = io.StringIO()
    show(Console(file=output, width=160), SETTINGS, report)
    text = output.getvalue()
    assert "pipeline (invalid)" in text
    assert "1.25" in text
    assert "silent" in text
    assert "by timeline" in text


def test_the_picture_shows_the_strategies_that_have_points(report):
    assert "discriminative, 500mbit, 2 ranks" in to_svg(SETTINGS, [report])


def test_a_point_is_told_in_a_line():
    assert describe_run(RUNS[4]).startswith(
        "discriminative 1 tensor, 1.0 × tensor: 10.0 calls/s, P50 100.0, P90 900.0 ms"
    )


def test_the_machines_time_is_read_from_its_statistics():
    found = read_cpu_time("cpu  10 1 5 70 4 2 3 5 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    assert found == CpuTime(total=100, stolen=5, idle=74)
    assert MACHINE.busy_percent == 75
