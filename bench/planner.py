"""How long the planner takes: windows that it knows, and searches for those that it does not.

    python -m bench.planner --json out.json

Made-up batches of mixed kinds, three in flight, on made-up costs in which compute and exchanges balance; no ranks.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from typing import Final

from bench.made_model import made_forwards, made_profile
from controller.core.batch import Batch
from controller.core.cost_model import CostModel, Shape
from controller.core.interleave import Interleaver
from controller.core.plan import Forwards, Strategy, Topology
from controller.core.planner import Planner
from controller.core.situation import InterleaveOptions, Situation, View
from liger.domain import BatchKind
from liger.schedule import BatchStart, DecodeRows, EncodeRows, PrefillRows

LIMIT_US: Final = 300.0  # of a cached window
DEPTH: Final = 3
MIX: Final = (
    (BatchKind.ENCODE, 128),
    (BatchKind.DECODE, 24),
    (BatchKind.PREFILL, 512),
    (BatchKind.ENCODE, 512),
    (BatchKind.PREFILL, 200),
    (BatchKind.DECODE, 8),
    (BatchKind.ENCODE, 300),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Searches for windows of so many batches in flight."""

    num_batches: int
    count: int
    median_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was measured with one model."""

    num_layers: int
    num_windows: int  # cached ones, timed
    median_us: float
    p99_us: float
    searches: tuple[Search, ...]


def made_costs() -> CostModel:
    """Return costs that grow with tokens from a floor, a layer of 128 tokens taking about 10 ms."""
    return CostModel(made_profile(floor_ns=50_000, token_ns=12_000))


def made_batch(number: int, kind: BatchKind, num_tokens: int) -> Batch:
    """Return a batch that waits for its first segment."""
    rows: EncodeRows | PrefillRows | DecodeRows
    match kind:
        case BatchKind.ENCODE:
            rows = EncodeRows(num_tokens=(num_tokens,), token_ids=(), token_type_ids=(), outputs=())
        case BatchKind.PREFILL:
            rows = PrefillRows(rows=(0,), num_tokens=(num_tokens,), starts=(0,), token_ids=(), samples=(True,))
        case BatchKind.DECODE:
            rows = DecodeRows(rows=tuple(range(num_tokens)), positions=(200,) * num_tokens)
    return Batch(start=BatchStart(batch_id=number, kind=kind, slot=0, rows=rows), num_tokens=num_tokens)


def plan_all(planner: Planner, num_batches: int) -> list[float]:
    """Plan the mix to its end, again and again the same; return how long each window with full depth took, in µs."""
    batches = iter([made_batch(number, *MIX[number % len(MIX)]) for number in range(1, num_batches + 1)])
    in_flight: list[Batch] = []
    taken_us: list[float] = []
    is_idle = True
    while in_flight := [*in_flight, *islice(batches, DEPTH - len(in_flight))]:
        is_full = len(in_flight) == DEPTH
        began_ns = time.perf_counter_ns()
        plan = planner.plan(in_flight, backlog_ns=float("inf"), is_idle=is_idle, is_pressed=is_full)
        if is_full:
            taken_us.append((time.perf_counter_ns() - began_ns) / 1e3)
        is_idle = False
        for batch, position in zip(plan.batches, plan.positions, strict=True):
            batch.position = position
        in_flight = [batch for batch in in_flight if batch.position < len(planner.forwards[batch.kind])]
    return taken_us


def time_cached(forwards: Forwards, rounds: int) -> list[float]:
    """Return how long windows take that were planned before, in µs."""
    planner = Planner(forwards, strategy=Strategy.INTERLEAVED, topology=Topology(tp_size=2), costs=made_costs())
    plan_all(planner, 6 * len(MIX))
    return [taken_us for _ in range(rounds) for taken_us in plan_all(planner, 6 * len(MIX))]


def time_searches(forwards: Forwards, num_batches: int) -> Search:
    """Time the searches for windows of so many batches, from their begin and from within."""
    costs = made_costs()
    taken_ms = []
    for first, position, situation in product(range(len(MIX)), (0, 5), Situation):
        mix = (MIX * 2)[first : first + num_batches]
        views = [View(Shape(kind, num_tokens), position, 0.0) for kind, num_tokens in mix]
        interleaver = Interleaver(forwards, Topology(tp_size=2), costs, InterleaveOptions())
        began_ns = time.perf_counter_ns()
        interleaver.cut(views, (0.0, 0.0), situation)
        taken_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
    return Search(
        num_batches=num_batches, count=len(taken_ms), median_ms=statistics.median(taken_ms), max_ms=max(taken_ms)
    )


def measure(num_layers: int, rounds: int) -> Run:
    """Measure one model."""
    forwards = made_forwards(num_layers)
    cached_us = time_cached(forwards, rounds)
    return Run(
        num_layers=num_layers,
        num_windows=len(cached_us),
        median_us=statistics.median(cached_us),
        p99_us=statistics.quantiles(cached_us, n=100)[-1],
        searches=tuple(time_searches(forwards, num_batches) for num_batches in range(1, DEPTH + 2)),
    )


def main(arguments: Sequence[str]) -> int:
    """Measure, show, and write a file if one is named."""
    parser = argparse.ArgumentParser(prog="python -m bench.planner", description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[30, 4], help="models to plan for")
    parser.add_argument("--rounds", type=int, default=10, help="how often cached windows are planned again")
    parser.add_argument("--json", type=Path, help="write what was measured there")
    asked = parser.parse_args(arguments)
    runs = [measure(num_layers, asked.rounds) for num_layers in asked.layers]
    for run in runs:
        _show(run)
    if asked.json:
        asked.json.write_text(json.dumps({"limit_us": LIMIT_US, "runs": [asdict(run) for run in runs]}, indent=2))
    return 0


def _show(run: Run) -> None:
    worth = "within" if run.p99_us <= LIMIT_US else "above" if run.median_us > LIMIT_US else "at the median within"
    print(
        f"{run.num_layers} layers: {run.num_windows} cached windows at depth {DEPTH}: median {run.median_us:.0f} µs, "
        f"p99 {run.p99_us:.0f} µs ({worth} {LIMIT_US:.0f} µs)"
    )
    for search in run.searches:
        print(
            f"  search for {search.num_batches} batches: median {search.median_ms:.1f} ms, max {search.max_ms:.1f} ms "
            f"({search.count} searches)"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
