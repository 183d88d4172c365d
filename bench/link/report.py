"""Shows what was measured: tables for people, JSON for programs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.link.clusters import contestant_names
from bench.link.machine import Machine
from bench.link.picture import Panel, draw_curves
from bench.link.runs import SATURATION, Run
from bench.link.settings import Settings
from bench.link.summary import Bounds, Comparison, Curve, Points, compare, crossing_rate, curves, find_bounds
from bench.link.work import Load
from liger import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """One load's outcome."""

    load: Load
    runs: Sequence[Run]
    points: Points
    bounds: Bounds
    comparison: Comparison
    curves: Mapping[str, Curve]
    crossing_rate: float | None  # of pipeline's and interleaved's P90


def report_load(settings: Settings, load: Load, runs: Sequence[Run]) -> LoadReport:
    """Put together what one load gave."""
    points = Points(runs)
    bounds = find_bounds(points)
    found = curves(points, settings.strategies)
    return LoadReport(
        load=load,
        runs=runs,
        points=points,
        bounds=bounds,
        comparison=compare(points, bounds),
        curves=found,
        crossing_rate=crossing_rate(found.get("interleaved", ()), found.get("pipeline", ())),
    )


def to_json(settings: Settings, machine: Machine, reports: Sequence[LoadReport]) -> str:
    """Return everything as JSON; what is not known is null."""
    table = {
        "version": __version__,
        "settings": asdict(settings),
        "machine": asdict(machine),
        "summary": {report.load.value: asdict(report.comparison) for report in reports},
        "bounds": {report.load.value: asdict(report.bounds) for report in reports},
        "crossing_rate": {report.load.value: report.crossing_rate for report in reports},
        "runs": [asdict(run) for report in reports for run in report.runs],
    }
    return json.dumps(finite(table), indent=1) + "\n"


def to_svg(settings: Settings, reports: Sequence[LoadReport]) -> str:
    """Return the curves of all loads."""
    return draw_curves(
        [
            Panel(
                title=f"{report.load.value}, {settings.rate}, {settings.ranks} ranks",
                curves=report.curves,
                crossing_rate=report.crossing_rate,
            )
            for report in reports
        ]
    )


def show(console: Console, settings: Settings, report: LoadReport) -> None:
    """Print one load's tables and its summary."""
    title = f"{report.load.value} · {settings.rate} · {settings.ranks} ranks"
    console.print(_saturation_table(settings, report, f"{title} · with as much work as it takes"))
    console.print(_latency_table(settings, report, f"{title} · calls come by chance"))
    console.print(_summary_table(report))
    console.print(_notes(report), "\n")


def show_machine(console: Console, machine: Machine) -> None:
    """Print what the figures were measured on."""
    console.print(
        f"{machine.cores} cores ({machine.processor}), {machine.threads_per_rank} thread a rank; during the run "
        f"{machine.busy_percent:.0f} % busy, {machine.steal_percent:.1f} % stolen; load average "
        f"{machine.load_before:.2f} before, {machine.load_after:.2f} after"
    )


def describe_run(run: Run) -> str:
    """Return one point in a line."""
    figures = run.figures
    failed = f", {figures.num_failed} failed ({figures.error})" if figures.num_failed else ""
    return (
        f"{run.load.value} {run.round} {run.strategy}, {run.label}: {figures.calls_per_s:.1f} calls/s, "
        f"P50 {_ms(figures.p50_s)}, P90 {_ms(figures.p90_s)} ms, depth {figures.depth:.1f}{failed}"
    )


def _saturation_table(settings: Settings, report: LoadReport, title: str) -> Table:
    names = ("strategy", "calls/s", "tokens/s", "vs tensor", "mean", "P50", "P90", "P99 ms")
    table = _table(title, *names, "compute", "exposed ms", "depth")
    for name in contestant_names(settings):
        figures = _medians(report, name, SATURATION)
        if figures is None:
            continue
        ratio = report.points.ratio(name, "tensor", SATURATION, lambda run: run.figures.tokens_per_s)
        marked = f"{name} (invalid)" if name == "pipeline" and report.bounds.pipeline_is_valid is False else name
        rates = (f"{figures['calls_per_s']:.1f}", f"{figures['tokens_per_s']:.0f}", _number(ratio))
        times = [_ms(figures[key]) for key in ("mean_s", "p50_s", "p90_s", "p99_s", "compute_s", "exposed_s")]
        table.add_row(marked, *rates, *times, f"{figures['depth']:.1f}")
    return table


def _latency_table(settings: Settings, report: LoadReport, title: str) -> Table:
    table = _table(
        title, "rate", "calls/s", "strategy", "answered/s", "mean", "P50", "P90", "P99 ms", "depth", "failed"
    )
    rates = {run.label: run.rate for run in report.runs if run.rate is not None}
    for label, rate in sorted(rates.items(), key=lambda item: item[1]):
        for place, name in enumerate(settings.strategies):
            figures = _medians(report, name, label)
            if figures is None:
                continue
            head = (label, f"{rate:.1f}") if place == 0 else ("", "")
            times = [_ms(figures[key]) for key in ("mean_s", "p50_s", "p90_s", "p99_s")]
            failed = sum(run.figures.num_failed for run in report.runs if (run.label, run.strategy) == (label, name))
            table.add_row(*head, name, f"{figures['calls_per_s']:.1f}", *times, f"{figures['depth']:.1f}", str(failed))
        table.add_section()
    return table


def _summary_table(report: LoadReport) -> Table:
    found, bounds = report.comparison, report.bounds
    table = _table("interleaved", "against", "figure", "ratio", "bound")
    for against, figure, ratio, bound in (
        ("tensor", "throughput", found.throughput_vs_tensor, bounds.throughput_vs_tensor),
        ("tensor", "P90 at tensor's saturation", found.p90_vs_tensor_at_its_saturation, None),
        ("tensor", "communication hidden, by throughput", found.hidden_fraction, 1.0),
        ("tensor", "communication hidden, by the timeline", bounds.covered_share, 1.0),
        ("pipeline", "throughput", found.throughput_vs_pipeline, bounds.throughput_vs_pipeline),
        ("pipeline", "P90 at pipeline's throughput", found.p90_vs_pipeline_at_its_throughput, None),
        ("pipeline", "P90 at 0.9 of interleaved's saturation", bounds.p90_vs_pipeline_near_saturation, None),
        ("the best", "P90 at low load", found.low_load_p90_vs_best, None),
    ):
        table.add_row(against, figure, _number(ratio), "" if bound is None else _number(bound))
    return table


def _notes(report: LoadReport) -> str:
    bounds = report.bounds
    times = {
        "tensor": bounds.tensor_s,
        "interleaved": bounds.interleaved_s,
        "pipeline": bounds.pipeline_s,
        "compute alone": bounds.compute_s,
        f"communication alone (by {bounds.communication_from})": bounds.communication_s,
    }
    shown = " · ".join(f"{name} {'–' if value is None else f'{1e6 * value:.0f}'}" for name, value in times.items())
    worth = {None: "not known whether worthy", True: "worthy", False: "invalid"}[bounds.pipeline_is_valid]
    crossing = "do not cross" if report.crossing_rate is None else f"cross at {report.crossing_rate:.1f} calls/s"
    left_out = report.points.num_left_out
    failures = f"\n{left_out} points are left out: calls failed there" if left_out else ""
    return (
        f"µs a token: {shown}\npipeline reaches {_number(bounds.pipeline_share_of_ideal)} of its ideal ({worth}); "
        f"the P90 curves of pipeline and interleaved {crossing}{failures}"
    )


def _medians(report: LoadReport, name: str, label: str) -> dict[str, float] | None:
    """Return the medians over rounds of every figure; None if there is no point."""
    keys = ("calls_per_s", "tokens_per_s", "mean_s", "p50_s", "p90_s", "p99_s", "compute_s", "exposed_s", "depth")
    found = {key: report.points.median(name, label, lambda run, key=key: getattr(run.figures, key)) for key in keys}  # type: ignore[misc]
    if found["calls_per_s"] is None:
        return None
    return {key: math.nan if value is None else value for key, value in found.items()}


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in {"strategy", "rate", "against", "figure"} else "right")
    return table


def _ms(value: float) -> str:
    return f"{1000 * value:.1f}" if math.isfinite(value) else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def finite(value: Any) -> Any:
    """Return a value with null for numbers that JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value
