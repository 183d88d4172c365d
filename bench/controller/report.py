"""What is shown and written of a run."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Column, Table

from bench.controller.meter import Figures
from bench.controller.service import ServiceFigures
from bench.link.machine import Machine

GOAL_TOKENS_PER_S = 20_000
GOAL_MS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run."""

    strategy: str
    num_sequences: int
    num_ranks: int
    seconds: float
    machine: Machine
    in_process: Sequence[Figures]
    service: ServiceFigures


def show(console: Console, report: Report) -> None:
    """Print a run's figures beside what they should be."""
    console.print(
        f"strategy {report.strategy}, {report.num_sequences} running sequences, {report.num_ranks} simulated ranks; "
        f"wanted: {GOAL_TOKENS_PER_S:,} tokens/s, control work of a decode step at most {GOAL_MS:g} ms"
    )
    console.print(_summary(report))
    for figures in report.in_process:
        parts = ", ".join(f"{part} {ms:.2f}" for part, ms in figures.parts_ms.items())
        console.print(f"{figures.name}, mean ms of a step: {parts} ({figures.windows_per_step:.1f} windows)")
    service = report.service
    console.print(
        f"service: a step took the controller's process {service.controller_ms:.2f} ms of CPU time, "
        f"{service.loop_ms:.2f} of them its loop (the rest: gRPC's threads, searches for cold windows); it used "
        f"{service.controller_share:.0%} of its core, workers and gateway {service.others_share:.0%} of theirs; "
        f"{service.bottleneck} set the pace; {service.num_finished} requests ended, "
        f"{service.messages_per_step:.1f} messages a step to the gateway"
    )
    machine = report.machine
    console.print(
        f"machine: {machine.processor}, {machine.cores} cores, {machine.steal_percent:.0f} % stolen, load before "
        f"{machine.load_before:.1f}; on a busy machine figures are worse than they should be"
    )


def to_json(report: Report) -> str:
    """Return a run as JSON."""
    fields = asdict(report)
    fields["service"]["bottleneck"] = report.service.bottleneck
    fields["goals"] = {"tokens_per_s": GOAL_TOKENS_PER_S, "step_ms": GOAL_MS}
    fields["cpus"] = os.cpu_count()
    return json.dumps(fields, indent=1) + "\n"


def _summary(report: Report) -> Table:
    table = Table(Column("controller", no_wrap=True), "tokens/s", "median ms", "p99 ms", "decode steps")
    for column in table.columns[1:]:
        column.justify = "right"
    for each in report.in_process:
        table.add_row(
            each.name, f"{each.tokens_per_s:,.0f}", f"{each.median_ms:.2f}", f"{each.p99_ms:.2f}", f"{each.num_steps:,}"
        )
    service = report.service
    num_steps = service.tokens_per_s * service.seconds / report.num_sequences
    table.add_row(
        "service, real gRPC",
        f"{service.tokens_per_s:,.0f}",
        f"{service.loop_ms:.2f} (mean)",
        "",
        f"{num_steps:,.0f}",
    )
    return table
