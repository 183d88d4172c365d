"""Lays the tasks of several jobs on lanes: a short schedule in which the first job is hardly delayed.

A job is a batch's segments, or pieces of them, in order; a lane runs one task at a time. This is a job shop. The search
goes through active schedules only (Giffler & Thompson, 1960: of the tasks that could end first on a lane, any whose
start comes before that end may go next), which hold a shortest one, and keeps the few most promising partial schedules
of each length (a beam). A bound prunes: what is left on a lane, and what is left of a job, must still be done.
Deterministic: ties go to the older job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

WIDTH: Final = 6  # partial schedules kept of each length
_FEW: Final = 48  # tasks; where there are fewer, as many times more are kept
_MOST: Final = 280  # tasks times partial schedules kept, so that a search has an end
_INFINITE: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Task:
    """One segment, or a piece of one."""

    lane: int  # 2 * stage for compute, 2 * stage + 1 for communication
    duration: float  # ns, when the stage's other lane is idle
    after: int  # the task of its job that it waits for, -1 for none
    contention: float = 1.0  # how many times longer it takes while the stage's other lane is busy
    held: float = 1.0  # share of its time for which it keeps its lane: an exchange may begin before the last has ended


@dataclass(frozen=True, slots=True)
class Job:
    """One batch's tasks."""

    tasks: tuple[Task, ...]
    ready: float = 0.0  # ns until its first task may begin


@dataclass(frozen=True, slots=True)
class Placed:
    """A task with its time."""

    job: int
    task: int
    lane: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Layout:
    """When everything runs."""

    placed: tuple[Placed, ...]  # in the order in which they were laid
    ends: tuple[float, ...]  # of each job
    free: tuple[float, ...]  # when each lane is free again

    @property
    def makespan(self) -> float:
        """When the last task ends."""
        return max(self.ends, default=0.0)

    def launch_order(self) -> list[Placed]:
        """Return the one order in which ranks launch: compute when it begins, an exchange as soon as it can queue.

        A lane takes what is launched first, so an exchange queues when the task before it has ended, or is queued on
        the same lane, and the exchanges planned before it are queued; the compute lane is launched by a thread that
        waits for what it needs.
        """
        before = {(one.job, one.task + 1): one for one in self.placed}
        queued = [0.0] * len(self.free)
        keyed: list[tuple[float, bool, int]] = []
        for number in sorted(range(len(self.placed)), key=lambda each: (self.placed[each].begin, each)):
            one = self.placed[number]
            is_compute = one.lane % 2 == 0
            waits_for = before.get((one.job, one.task))
            ready = waits_for.end if waits_for and waits_for.lane != one.lane else 0.0
            time = one.begin if is_compute else max(queued[one.lane], ready)
            queued[one.lane] = time
            keyed.append((time, is_compute, number))
        return [self.placed[number] for _, _, number in sorted(keyed)]


class _Option(NamedTuple):
    begin: float
    end: float
    job: int  # whose next task it is
    lane: int


class _Node:
    """A partial schedule; what came before is found by `parent`."""

    __slots__ = ("ends", "free", "options", "parent", "placed", "position", "score", "stretch")

    def __init__(
        self,
        parent: "_Node | None",
        placed: Placed | None,
        position: tuple[int, ...],
        ends: tuple[tuple[float, float], ...],
        free: tuple[float, ...],
    ) -> None:
        self.parent = parent
        self.placed = placed
        self.position = position  # next task of each job
        self.ends = ends  # of each job: its last task, and the one before
        self.free = free
        self.stretch = 0.0  # contention made the first job's tasks longer by so much
        self.options: tuple[_Option, ...] = ()  # the next task of each job that has one
        self.score: tuple[float, float] = (0.0, 0.0)


class _Search:
    def __init__(self, jobs: Sequence[Job], free: tuple[float, ...], limit: float) -> None:
        self._tasks = [job.tasks for job in jobs]
        self._counts = tuple(len(job.tasks) for job in jobs)
        self._limit = limit
        self._paths = [_paths(job.tasks) for job in jobs]
        self._left = [_left(job.tasks, len(free)) for job in jobs]
        self._heads = [_heads(job.tasks, paths) for job, paths in zip(jobs, self._paths, strict=True)]
        self._ready = [job.ready for job in jobs]
        ends = tuple((job.ready, job.ready) for job in jobs)
        self.root = _Node(None, None, (0,) * len(jobs), ends, free)
        self.root.options = self._options(self.root)

    def children(self, node: _Node) -> list[_Node]:
        """Return what may go next: the conflict set of the lane on which a task could end first.

        A piece that waits on another lane may hold back the piece behind it, which could go on this one: then the
        conflict set of that lane, too.
        """
        options = node.options
        first = min(options, key=lambda option: (option.end, option.job))
        chosen = _rivals(options, first)
        for option in options:
            if self._holds_back(node, option, first):
                chosen += [rival for rival in _rivals(options, option) if rival not in chosen]
        return [self._place(node, option) for option in chosen]

    def _holds_back(self, node: _Node, option: _Option, first: _Option) -> bool:
        """Return whether what comes behind an option could begin on the lane of `first` before that ends."""
        tasks, position = self._tasks[option.job], node.position[option.job]
        if option.lane == first.lane or position + 1 == len(tasks):
            return False
        behind = tasks[position + 1]
        is_ready = behind.lane == first.lane and behind.after < position
        return is_ready and max(node.ends[option.job][0], node.free[first.lane]) < first.end

    def _options(self, node: _Node) -> tuple[_Option, ...]:
        return tuple(
            self._next(node, job, position)
            for job, position in enumerate(node.position)
            if position < self._counts[job]
        )

    def _next(self, node: _Node, job: int, position: int) -> _Option:
        task = self._tasks[job][position]
        last, before = node.ends[job]
        ready = self._ready[job] if task.after < 0 else last if task.after == position - 1 else before
        begin = max(ready, node.free[task.lane])
        duration = task.duration
        if task.contention > 1.0:
            beside = min(max(node.free[task.lane ^ 1] - begin, 0.0), duration)
            duration += beside * (task.contention - 1.0)
        return _Option(begin, begin + duration, job, task.lane)

    def _place(self, node: _Node, option: _Option) -> _Node:
        begin, end, job, lane = option
        position = node.position[job]
        positions = (*node.position[:job], position + 1, *node.position[job + 1 :])
        ends = (*node.ends[:job], (end, node.ends[job][0]), *node.ends[job + 1 :])
        released = begin + (end - begin) * self._tasks[job][position].held
        free = (*node.free[:lane], released, *node.free[lane + 1 :])
        child = _Node(node, Placed(job, position, lane, begin, end), positions, ends, free)
        longer = end - begin - self._tasks[job][position].duration
        child.stretch = node.stretch + (longer if job == 0 else 0.0)
        child.options = self._options(child)
        child.score = self._score(child)
        return child

    def _score(self, node: _Node) -> tuple[float, float]:
        """Return (a bound on the makespan, the sum of when jobs can end); infinite if the first job is too late."""
        bounds = [ends[0] for ends in node.ends]
        for option in node.options:
            bounds[option.job] = self._bound(node, option)
        if bounds[0] - node.stretch > self._limit:
            return _INFINITE, bounds[0]
        most = max(bounds)
        for lane, free in enumerate(node.free):
            left = sum(self._left[job][place][lane] for job, place in enumerate(node.position))
            most = max(most, free + left) if left else most
        return most, sum(bounds)

    def _bound(self, node: _Node, option: _Option) -> float:
        """Return when a job ends at the earliest; exact if no other job comes before it on a lane."""
        place = node.position[option.job]
        end = option.begin + self._paths[option.job][place]
        for lane, path in self._heads[option.job][place]:
            end = max(end, node.free[lane] + path)
        return end


def lay_out(
    jobs: Sequence[Job], *, num_lanes: int, slack: float, free: Sequence[float] = (), width: int = WIDTH
) -> Layout:
    """Return a short schedule of all tasks of all jobs.

    Args:
        jobs: The first is primary.
        num_lanes: Two for each stage.
        slack: How much longer the primary may take than alone, as a share; what contention adds comes on top.
        free: When each lane is free, in ns; at once by default.
        width: Partial schedules kept; more where tasks are few, fewer where they are many.
    """
    lanes = tuple(free) or (0.0,) * num_lanes
    if len(jobs) == 1:
        return _in_turn(jobs[0], lanes)
    alone = chain(jobs[0], lanes)
    search = _Search(jobs, lanes, alone + slack * max(alone - jobs[0].ready, 0.0) + 1e-6)
    beam = [search.root]
    num_tasks = sum(len(job.tasks) for job in jobs)
    width = max(1, min(width * max(1, _FEW // max(num_tasks, 1)), _MOST // max(num_tasks, 1)))
    for _ in range(num_tasks):
        best: dict[tuple[object, ...], _Node] = {}
        for node in beam:
            for child in search.children(node):
                best.setdefault((child.position, child.free, child.ends), child)
        beam = sorted(best.values(), key=lambda child: child.score)[:width]
    return _layout(beam[0])


def chain(job: Job, free: Sequence[float]) -> float:
    """Return when a job ends that has the lanes to itself, from when they are free."""
    lanes = list(free)
    ends: list[float] = []
    for task in job.tasks:
        ready = job.ready if task.after < 0 else ends[task.after]
        begin = max(ready, lanes[task.lane])
        lanes[task.lane] = begin + task.duration * task.held
        ends.append(begin + task.duration)
    return max(ends, default=job.ready)


def _in_turn(job: Job, free: Sequence[float]) -> Layout:
    """Return the only schedule of a job that has the lanes to itself: its tasks go in order."""
    lanes, ends = list(free), list[float]()
    placed = []
    for number, task in enumerate(job.tasks):
        begin = max(job.ready if task.after < 0 else ends[task.after], lanes[task.lane])
        beside = min(max(lanes[task.lane ^ 1] - begin, 0.0), task.duration)
        ends.append(begin + task.duration + beside * (task.contention - 1.0))
        lanes[task.lane] = begin + (ends[-1] - begin) * task.held
        placed.append(Placed(0, number, task.lane, begin, ends[-1]))
    return Layout(tuple(placed), (max(ends[-2:], default=job.ready),), tuple(lanes))


def _rivals(options: Sequence[_Option], first: _Option) -> list[_Option]:
    """Return the options on the lane of `first` that could begin before it ends."""
    rivals = [option for option in options if option.lane == first.lane and option.begin < first.end]
    return rivals or [first]


def _layout(node: _Node) -> Layout:
    ends = tuple(max(pair) for pair in node.ends)
    free, placed = node.free, []
    step: _Node | None = node
    while step is not None and step.placed is not None:
        placed.append(step.placed)
        step = step.parent
    return Layout(tuple(reversed(placed)), ends, free)


def _paths(tasks: Sequence[Task]) -> list[float]:
    """Return, for each task, the least time from its begin to the end of the job."""
    paths = [0.0] * len(tasks)
    for number in reversed(range(len(tasks))):
        following = tasks[number + 1 : number + 3]
        waiting = (task.after == number or task.lane == tasks[number].lane for task in following)
        later = (paths[number + 1 + place] for place, waits in enumerate(waiting) if waits)
        paths[number] = tasks[number].duration + max(later, default=0.0)
    return paths


def _heads(tasks: Sequence[Task], paths: Sequence[float]) -> list[tuple[tuple[int, float], ...]]:
    """Return, for each position, the least time from the next task of each lane but its own to the end of the job."""
    heads: list[tuple[tuple[int, float], ...]] = [()] * len(tasks)
    nearest: dict[int, float] = {}
    for number in reversed(range(len(tasks))):
        nearest[tasks[number].lane] = paths[number]
        heads[number] = tuple((lane, path) for lane, path in nearest.items() if lane != tasks[number].lane)
    return heads


def _left(tasks: Sequence[Task], num_lanes: int) -> list[tuple[float, ...]]:
    """Return, for each position, the work that is left on each lane."""
    left = [(0.0,) * num_lanes]
    for task in reversed(tasks):
        left.append(tuple(work + task.duration * task.held * (lane == task.lane) for lane, work in enumerate(left[-1])))
    return left[::-1]
