"""What was measured at one point, and its figures."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_PAUSE: Final = 0.25  # of the mean time between answers: longer ones part batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One call, as its client saw it; times in seconds from the point's begin."""

    scheduled_s: float  # when it was to be sent; latency counts from here
    ended_s: float
    num_tokens: int  # that went through the model
    error: str = ""  # empty for success
    compute_ns: int = 0  # of the slowest rank: a segment of it computed
    exposed_ns: int = 0  # of the slowest rank: communication of it that no compute covered
    depth: int = 0  # most batches in flight meanwhile

    @property
    def latency_s(self) -> float:
        """From when it was to be sent until its answer was there."""
        return self.ended_s - self.scheduled_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One point. Latencies and shares are of the calls that succeeded."""

    num_calls: int
    num_failed: int
    error: str  # of the first that failed
    calls_per_s: float
    tokens_per_s: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    compute_s: float  # mean of a call
    exposed_s: float  # mean of a call
    depth: float  # mean of a call


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolated between the two nearest values.

    Args:
        values: At least one, in any order.
        percent: 0 to 100.
    """
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def open_loop_figures(answers: Sequence[Answer]) -> Figures:
    """Return the figures of calls that came at times of their own: throughput from the begin to the last answer."""
    good = [answer for answer in answers if not answer.error]
    span_s = max((answer.ended_s for answer in good), default=0.0)
    return _figures(answers, len(good), sum(answer.num_tokens for answer in good), span_s)


def closed_loop_figures(answers: Sequence[Answer], num_outstanding: int) -> Figures:
    """Return the figures of calls that were sent as soon as others ended: throughput while there was always work.

    Time is taken from the end of one batch to the end of another. The answers of the first batches, which may be small,
    are left out, and those of the last calls, after which there was no work to follow.

    Args:
        answers: Of all calls.
        num_outstanding: How many were under way at once.
    """
    good = sorted((answer for answer in answers if not answer.error), key=lambda answer: answer.ended_s)
    ends = _batch_ends([answer.ended_s for answer in good])
    middle = [end for end in ends if num_outstanding // 2 <= end + 1 <= len(good) - num_outstanding]
    if len(middle) < 2:  # too few for a middle: all count
        return open_loop_figures(answers)
    counted = good[middle[0] + 1 : middle[-1] + 1]
    span_s = good[middle[-1]].ended_s - good[middle[0]].ended_s
    return _figures(answers, len(counted), sum(answer.num_tokens for answer in counted), span_s)


def _batch_ends(ended_s: Sequence[float]) -> list[int]:
    """Return the places of answers after which none came for a while: the answers of a batch come together.

    Args:
        ended_s: Ascending.
    """
    if len(ended_s) < 2:
        return []
    while_s = _PAUSE * (ended_s[-1] - ended_s[0]) / (len(ended_s) - 1)
    return [place for place, (one, other) in enumerate(itertools.pairwise(ended_s)) if other - one > while_s]


def _figures(answers: Sequence[Answer], num_counted: int, num_tokens: int, span_s: float) -> Figures:
    good = [answer for answer in answers if not answer.error]
    latencies = [answer.latency_s for answer in good] or [math.nan]
    count = max(len(good), 1)
    return Figures(
        num_calls=len(answers),
        num_failed=len(answers) - len(good),
        error=next((answer.error for answer in answers if answer.error), ""),
        calls_per_s=num_counted / span_s if span_s > 0 else 0.0,
        tokens_per_s=num_tokens / span_s if span_s > 0 else 0.0,
        mean_s=sum(latencies) / len(latencies),
        p50_s=percentile(latencies, 50),
        p90_s=percentile(latencies, 90),
        p99_s=percentile(latencies, 99),
        compute_s=sum(answer.compute_ns for answer in good) / count / 1e9,
        exposed_s=sum(answer.exposed_ns for answer in good) / count / 1e9,
        depth=sum(answer.depth for answer in good) / count,
    )
