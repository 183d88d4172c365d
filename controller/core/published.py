"""What is remembered of a window from its publication until the ranks have acknowledged it."""

from collections.abc import Sequence
from dataclasses import dataclass

from controller.core.batch import Batch
from controller.core.plan import Plan
from liger.schedule import Window, WindowTimings


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A window on its way."""

    window: Window
    plan: Plan
    ended: tuple[Batch, ...]  # batches whose last segment is in the window
    predicted_ns: tuple[float, ...]  # of the ranks' time, by operand: what each task was charged

    def charge(self, timings: Sequence[WindowTimings]) -> list[tuple[Batch, int, float, int]]:
        """Add what each batch took, on the rank where it took longest, to its requests' charges.

        Returns:
            Each batch, how many segments it advanced, the time predicted for that and the time it took, in nanoseconds.
        """
        by_rank = zip(
            *(zip(each.batch_compute_ns, each.batch_exposed_ns, strict=True) for each in timings), strict=True
        )
        times = [max(of_batch, key=sum) for of_batch in by_rank]
        for batch, (compute_ns, exposed_ns) in zip(self.plan.batches, times, strict=True):
            for one in batch.charges:
                one.compute_ns += compute_ns
                one.exposed_ns += exposed_ns
        taken_ns = [sum(of_batch) for of_batch in times]
        return list(zip(self.plan.batches, self.plan.cut.advances, self.predicted_ns, taken_ns, strict=True))
