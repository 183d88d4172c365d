"""What all ranks say of one window."""

from dataclasses import dataclass

from liger.schedule import WindowOutcome, WindowTimings


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowReport:
    """The ranks' acknowledgements, joined."""

    outcome: WindowOutcome  # of the rank that attaches payloads
    timings: tuple[WindowTimings, ...]  # by rank

    @property
    def slowest(self) -> WindowTimings:
        """Return the timings of the rank that took longest."""
        return max(self.timings, key=lambda each: each.ended_ns - each.started_ns)
