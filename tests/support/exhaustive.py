"""The best that any schedule can do, found by trying all of them: for small instances."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from controller.core.layout import Job, chain

_INFINITE = float("inf")
_Ends = tuple[tuple[float, ...], ...]


@dataclass
class _All:
    """Branch and bound over semi-active schedules: in any order, each task as early as what is placed allows."""

    jobs: Sequence[Job]
    limit: float  # the first job ends no later
    best: float = _INFINITE
    seen: set[tuple[_Ends, tuple[float, ...]]] = field(default_factory=set)

    def visit(self, ends: _Ends, free: tuple[float, ...]) -> None:
        if (ends, free) in self.seen or self._bound(ends) >= self.best:
            return
        self.seen.add((ends, free))
        open_jobs = [number for number, job in enumerate(self.jobs) if len(ends[number]) < len(job.tasks)]
        if not open_jobs:
            self.best = max(max(each, default=0.0) for each in ends)
            return
        for number in open_jobs:
            end, lane, released = self._end_of_next(number, ends, free)
            if number > 0 or end <= self.limit:
                after = (*ends[:number], (*ends[number], end), *ends[number + 1 :])
                self.visit(after, (*free[:lane], released, *free[lane + 1 :]))

    def _end_of_next(self, number: int, ends: _Ends, free: tuple[float, ...]) -> tuple[float, int, float]:
        job = self.jobs[number]
        task = job.tasks[len(ends[number])]
        ready = job.ready if task.after < 0 else ends[number][task.after]
        begin = max(ready, free[task.lane])
        return begin + task.duration, task.lane, begin + task.duration * task.held

    def _bound(self, ends: _Ends) -> float:
        return max(max(each, default=0.0) for each in ends)


def best_makespan(jobs: Sequence[Job], free: Sequence[float], slack: float) -> float:
    """Return the least makespan of schedules that keep the first job within its slack, without contention."""
    alone = chain(jobs[0], free)
    search = _All(jobs, limit=alone + slack * (alone - jobs[0].ready) + 1e-6)
    search.visit(((),) * len(jobs), tuple(free))
    return search.best


def serial_makespan(jobs: Sequence[Job], free: Sequence[float]) -> float:
    """Return when the last job ends if each begins after the one before."""
    end, lanes = 0.0, tuple(free)
    for job in jobs:
        end = chain(Job(job.tasks, max(job.ready, end)), lanes)
        lanes = tuple(max(each, end) for each in lanes)
    return end
