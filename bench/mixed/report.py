"""Shows what was measured: tables for people, JSON for programs."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.link.machine import Machine
from bench.link.report import finite, show_machine
from bench.mixed.figures import EmbedFigures, Phase, PhaseRun, StreamFigures, median_of, p90_against_alone
from bench.mixed.settings import NO_RATE, Settings
from bench.one_model import NUM_RANKS
from liger import __version__
from liger.views import WindowMix

GOAL: Final = 1.5
"""Largest P90 between tokens with weights, over that of streams alone, that is wanted."""
_NUM_MIXES: Final = 5


def show(console: Console, settings: Settings, machine: Machine, runs: Sequence[PhaseRun]) -> None:
    """Print the tables, whether the goal is met, and what it was measured on."""
    console.print(
        f"Liger+ {__version__} · {settings.model} · {NUM_RANKS} ranks · link {settings.rate or NO_RATE} · weights "
        f"{settings.weights} · {settings.streams} streams · medians over {settings.rounds} rounds, "
        f"{settings.seconds:g} s a phase"
    )
    console.print(_stream_table(runs))
    console.print(_embed_table(runs))
    for line in _rank_lines(runs):
        console.print(line)
    console.print(_verdict(runs))
    show_machine(console, machine)


def to_json(settings: Settings, machine: Machine, runs: Sequence[PhaseRun]) -> str:
    """Return everything as JSON; what is not known is null."""
    table = {
        "version": __version__,
        "settings": asdict(settings),
        "machine": asdict(machine),
        "summary": {
            "goal": GOAL,
            "p90_vs_streams_alone": {phase.value: p90_against_alone(runs, phase) for phase in _MIXED},
        },
        "runs": [asdict(run) for run in runs],
    }
    return json.dumps(finite(table), indent=1) + "\n"


def describe_run(run: PhaseRun) -> str:
    """Return one phase in a line."""
    parts = []
    if run.streams:
        times = ", ".join(_ms(each) for each in (run.streams.p50_s, run.streams.p90_s, run.streams.p99_s))
        parts.append(f"{run.streams.tokens_per_s:.1f} tokens/s, between tokens P50, P90, P99 {times} ms")
    if run.embeddings:
        failed = f", {run.embeddings.num_failed} failed ({run.embeddings.error})" if run.embeddings.num_failed else ""
        parts.append(f"{run.embeddings.calls_per_s:.1f} embeddings/s, P90 {_ms(run.embeddings.p90_s)} ms{failed}")
    return f"round {run.round}, {run.phase}: {'; '.join(parts)}"


_MIXED: Final = (Phase.UNWEIGHTED, Phase.WEIGHTED)


def _stream_table(runs: Sequence[PhaseRun]) -> Table:
    table = _table("streams", "tokens/s", "mean", "P50", "P90", "P99 ms", "P90 vs alone", "together", "first token ms")
    for phase in (Phase.STREAMS, *_MIXED):
        median = _medians(runs, phase, lambda run: run.streams)
        table.add_row(
            phase.value,
            _number(median("tokens_per_s"), 1),
            *(_ms(median(name)) for name in ("mean_s", "p50_s", "p90_s", "p99_s")),
            _number(p90_against_alone(runs, phase), 2),
            _number(median("together"), 2),
            _ms(median("first_s")),
        )
    return table


def _embed_table(runs: Sequence[PhaseRun]) -> Table:
    table = _table("embeddings", "offered/s", "answered/s", "tokens/s", "P50", "P90 ms", "failed")
    for phase in (Phase.SATURATION, *_MIXED):
        median = _medians(runs, phase, lambda run: run.embeddings)
        table.add_row(
            phase.value,
            _number(median("offered_per_s"), 1),
            _number(median("calls_per_s"), 1),
            _number(median("tokens_per_s"), 0),
            *(_ms(median(name)) for name in ("p50_s", "p90_s")),
            str(sum(run.embeddings.num_failed for run in runs if run.phase is phase and run.embeddings)),
        )
    return table


def _medians(
    runs: Sequence[PhaseRun], phase: Phase, figures: Callable[[PhaseRun], StreamFigures | EmbedFigures | None]
) -> Callable[[str], float | None]:
    """Return what gives the median of one phase's figure by its name."""
    return lambda name: median_of(runs, phase, lambda run: getattr(figures(run), name, None))


def _rank_lines(runs: Sequence[PhaseRun]) -> list[str]:
    """Return what the ranks did in the last round of each phase."""
    lines = []
    for phase in Phase:
        ranks = next((run.ranks for run in reversed(runs) if run.phase is phase and run.ranks), None)
        if ranks is None:
            continue
        computed = ", ".join(f"{kind} {share:.0%}" for kind, share in ranks.compute_shares.items())
        tasks = ", ".join(f"{each.task.name.lower()} {each.share:.0%}" for each in ranks.task_shares)
        hidden = "" if ranks.hidden_share is None else f"; {ranks.hidden_share:.0%} of the communication hidden"
        lines.append(
            f"{phase}: ranks' compute lanes: {computed}{hidden}; windows: {_mixes(ranks.mixes)}; since the start, by "
            f"task: {tasks}"
        )
    return lines


def _mixes(mixes: Sequence[WindowMix]) -> str:
    shown = [
        f"{' + '.join(kind.name.lower() for kind in mix.batches) or 'none'} {mix.share:.0%}"
        for mix in mixes[:_NUM_MIXES]
    ]
    return ", ".join(shown)


def _verdict(runs: Sequence[PhaseRun]) -> str:
    ratio = p90_against_alone(runs, Phase.WEIGHTED)
    if ratio is None:
        return "nothing to compare: no tokens came"
    word = "met" if ratio <= GOAL else "missed"
    return f"with weights, P90 between tokens is {ratio:.2f}× that of streams alone; wanted: at most {GOAL}× ({word})"


def _table(first: str, *columns: str) -> Table:
    table = Table(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _ms(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{1000 * value:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
