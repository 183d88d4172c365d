"""The figures of one phase, and what several rounds of it say together."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.link.figures import Answer, percentile
from bench.mixed.streams import Arrival
from liger.domain import BatchKind, Lane
from liger.spans import LaneSpan, lane_use
from liger.views import TaskShare, WindowMix


class Phase(StrEnum):
    """What runs."""

    STREAMS = "streams alone"
    SATURATION = "embeddings alone, saturated"
    UNWEIGHTED = "both, weights 1"
    WEIGHTED = "both, with weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFigures:
    """Streams in the counted time. A token that came in one message with another came after no time."""

    num_tokens: int
    tokens_per_s: float
    mean_s: float  # between two tokens of a stream
    p50_s: float
    p90_s: float
    p99_s: float
    together: float  # share of the tokens that came with another before them, 0 to 1
    first_s: float  # P50 of the time to the first token


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedFigures:
    """Embeddings in the counted time. Latencies are of the calls that were to be sent in it, and succeeded."""

    offered_per_s: float | None  # calls; None at saturation
    calls_per_s: float  # answered
    tokens_per_s: float
    p50_s: float
    p90_s: float
    num_failed: int
    error: str  # of the first that failed


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFigures:
    """What the ranks did at the end of the counted time."""

    compute_shares: dict[str, float]  # of the compute lanes' time, by kind of batch; the rest is idle
    hidden_share: float | None  # of the hideable communication; None if there was none
    mixes: tuple[WindowMix, ...]  # of the last windows, most frequent first
    task_shares: tuple[TaskShare, ...]  # since the cluster began


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRun:
    """One phase of one round."""

    phase: Phase
    round: int  # from 1
    streams: StreamFigures | None
    embeddings: EmbedFigures | None
    ranks: RankFigures | None  # if the controller tells


def stream_figures(arrivals: Sequence[Arrival], begin_s: float, end_s: float) -> StreamFigures:
    """Return the figures of the tokens that came in a time."""
    counted = [arrival for arrival in arrivals if begin_s <= arrival.at_s < end_s]
    num_tokens = sum(arrival.num_tokens for arrival in counted)
    num_together = num_tokens - len(counted)
    gaps = [arrival.waited_s for arrival in counted if not arrival.is_first] + [0.0] * num_together
    gaps = gaps or [math.nan]
    firsts = [arrival.waited_s for arrival in counted if arrival.is_first] or [math.nan]
    return StreamFigures(
        num_tokens=num_tokens,
        tokens_per_s=num_tokens / (end_s - begin_s),
        mean_s=statistics.fmean(gaps),
        p50_s=percentile(gaps, 50),
        p90_s=percentile(gaps, 90),
        p99_s=percentile(gaps, 99),
        together=num_together / max(num_tokens, 1),
        first_s=percentile(firsts, 50),
    )


def arriving_figures(answers: Sequence[Answer], begin_s: float, end_s: float) -> EmbedFigures:
    """Return the figures of calls that came by chance, in a time."""
    ended = [answer for answer in answers if not answer.error and begin_s <= answer.ended_s < end_s]
    sent = [answer for answer in answers if begin_s <= answer.scheduled_s < end_s]
    latencies = [answer.latency_s for answer in sent if not answer.error] or [math.nan]
    failed = [answer for answer in answers if answer.error]
    span_s = end_s - begin_s
    return EmbedFigures(
        offered_per_s=len(sent) / span_s,
        calls_per_s=len(ended) / span_s,
        tokens_per_s=sum(answer.num_tokens for answer in ended) / span_s,
        p50_s=percentile(latencies, 50),
        p90_s=percentile(latencies, 90),
        num_failed=len(failed),
        error=failed[0].error if failed else "",
    )


def compute_shares(spans: Sequence[LaneSpan]) -> dict[str, float]:
    """Return which share of the compute lanes' time each kind of batch took, over all ranks."""
    extent_ns = sum(use.extent_ns for use in lane_use(spans).values())
    taken: Counter[BatchKind] = Counter()
    for span in spans:
        if span.lane is Lane.COMPUTE:
            taken[span.batch] += span.end_ns - span.begin_ns
    return {kind.name.lower(): taken[kind] / extent_ns for kind in sorted(taken)} if extent_ns else {}


def median_of(runs: Sequence[PhaseRun], phase: Phase, value: Callable[[PhaseRun], float | None]) -> float | None:
    """Return the median over rounds of a figure of one phase; None if there is none."""
    found = [value(run) for run in runs if run.phase is phase]
    numbers = [number for number in found if number is not None and math.isfinite(number)]
    return statistics.median(numbers) if numbers else None


def p90_against_alone(runs: Sequence[PhaseRun], phase: Phase) -> float | None:
    """Return the median over rounds of the streams' P90 over that of the streams alone in the same round."""
    alone = {run.round: run.streams.p90_s for run in runs if run.phase is Phase.STREAMS and run.streams}
    ratios = [
        run.streams.p90_s / alone[run.round]
        for run in runs
        if run.phase is phase and run.streams and alone.get(run.round)
    ]
    finite = [ratio for ratio in ratios if math.isfinite(ratio)]
    return statistics.median(finite) if finite else None
