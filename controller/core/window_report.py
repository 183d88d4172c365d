"""What all ranks say of one window."""

from dataclasses import dataclass
from operator import le

from liger.errors import GroupFailedError
from liger.schedule import StepSpans, Window, WindowOutcome, WindowTimings


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowReport:
    """The ranks' acknowledgements, joined."""

    outcome: WindowOutcome  # of the rank that attaches payloads
    timings: tuple[WindowTimings, ...]  # by rank

    @property
    def slowest(self) -> WindowTimings:
        """Return the timings of the rank that took longest."""
        return max(self.timings, key=lambda each: each.ended_ns - each.started_ns)


def check_timings(rank: int, outcome: WindowOutcome, window: Window) -> None:
    """Refuse an acknowledgement that no rank of this version would give.

    Raises:
        GroupFailedError: Its timings do not fit its window, or cannot be.
    """
    timings = outcome.timings
    lengths = {len(timings.batch_compute_ns), len(timings.batch_exposed_ns)}
    times = (timings.compute_ns, timings.communication_ns, timings.exposed_ns, timings.ended_ns - timings.started_ns)
    if lengths != {len(window.batch_ids)} or min(*times, *timings.batch_compute_ns, *timings.batch_exposed_ns) < 0:
        raise GroupFailedError(f"rank {rank} acknowledged window {outcome.number} with timings that cannot be")
    spans = StepSpans.of(timings.spans)
    if spans and not (
        max(spans.windows) <= outcome.number
        and min(spans.begins_ns) >= 0
        and max(spans.ends_ns) <= timings.ended_ns
        and all(map(le, spans.begins_ns, spans.ends_ns))
    ):
        raise GroupFailedError(f"rank {rank} acknowledged window {outcome.number} with spans that cannot be")
