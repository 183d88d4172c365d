"""Runs laid flows on an engine and takes times from them."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from bench.gpu.clock import Clock
from bench.gpu.flow import Laid
from bench.gpu.meeting import Meeting
from bench.gpu.rank_engine import Running
from liger.schedule import BatchOutcome, WindowOutcome

WINDOWS_AHEAD: Final = 2  # of the controller, by default
_SETTLED: Final = 2  # flows laid as the one before: the first meets every window, the second captures its graphs
_MOST_WARM_UPS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One flow's times, in ns from its begin on this rank's compute lane."""

    laid: Sequence[Laid]
    begins_ns: tuple[float, ...]  # of each window
    ends_ns: tuple[float, ...]
    communication_ns: float  # the communication lane was busy, as the ranks tell; 0 if they do not
    outcomes: dict[int, BatchOutcome]  # by batch id; on rank 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """A flow in its middle, where it is full."""

    batch_ns: float  # a batch's worth of work
    idle_share: float  # of that time, between the windows: the device had nothing to do
    communication_ns: float  # a batch's worth, see Ran


def run_flow(running: Running, clock: Clock, laid: Sequence[Laid]) -> Ran:
    """Run a flow to its end, as far ahead of the device as a controller publishes."""
    pending: deque[Callable[[], WindowOutcome]] = deque()
    marks: list[tuple[Any, Any]] = []
    done: list[WindowOutcome] = []
    running.enter()
    for one in laid:
        if len(pending) >= WINDOWS_AHEAD:
            done.append(pending.popleft()())
        begin = clock.mark()
        pending.append(running.launch(one.pattern, one.window))
        marks.append((begin, clock.mark()))
    done += [read() for read in pending]
    clock.wait()
    first = marks[0][0]
    return Ran(
        laid=laid,
        begins_ns=tuple(clock.between_ns(first, begin) for begin, _ in marks),
        ends_ns=tuple(clock.between_ns(first, end) for _, end in marks),
        communication_ns=sum(outcome.timings.communication_ns for outcome in done),
        outcomes={batch.batch_id: batch for outcome in done for batch in outcome.batches},
    )


def full_windows(laid: Sequence[Laid], depth: int) -> range:
    """Return the windows between which a flow is steady: every slot had a batch before, and there is always a next."""
    num_ended, first = 0, 0
    for place, one in enumerate(laid):
        if num_ended >= depth:
            break
        num_ended += len(one.ended)
        first = place
    last = max((place for place, one in enumerate(laid) if one.is_full), default=first)
    return range(first, last) if last > first else range(len(laid) - 1)


def steady(ran: Ran, depth: int) -> Steady:
    """Return what a flow shows in its middle."""
    between = full_windows(ran.laid, depth)
    if not between:  # a single window
        return Steady(batch_ns=ran.ends_ns[-1] / ran.laid[-1].work, idle_share=0.0, communication_ns=0.0)
    after = range(between.start + 1, between.stop + 1)
    took_ns = ran.ends_ns[between.stop] - ran.ends_ns[between.start]
    idle_ns = sum(max(ran.begins_ns[place] - ran.ends_ns[place - 1], 0.0) for place in after)
    return Steady(
        batch_ns=took_ns / sum(ran.laid[place].work for place in after),
        idle_share=idle_ns / took_ns if took_ns > 0 else 0.0,
        communication_ns=ran.communication_ns / sum(one.work for one in ran.laid),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to run, measured in turn with others."""

    name: str
    running: Running
    lay: Callable[[], list[Laid]]  # the next flow
    depth: int
    is_optional: bool = False


def measure_in_turn(
    contestants: Sequence[Contestant], clock: Clock, meeting: Meeting, rounds: int
) -> dict[str, list[Ran]]:
    """Run every contestant's flow once a round, in turn; return what was run, by name.

    An optional one that fails on some rank when it is first run is told of and left out.
    """
    able = [one for one in contestants if _warm_up(one, clock, meeting)]
    found: dict[str, list[Ran]] = {one.name: [] for one in able}
    for number in range(rounds):
        turn = number % len(able)
        for one in (*able[turn:], *able[:turn]):
            laid = one.lay()
            meeting.meet()
            found[one.name].append(run_flow(one.running, clock, laid))
    return found


def _warm_up(one: Contestant, clock: Clock, meeting: Meeting) -> bool:
    def run() -> bool:
        """Run flows until the planner lays them alike: it searches longer for what comes again."""
        before, num_settled = None, 0
        for _ in range(_MOST_WARM_UPS):
            laid = one.lay()
            meeting.meet()
            run_flow(one.running, clock, laid)
            patterns = [window.pattern.id for window in laid]
            num_settled = num_settled + 1 if patterns == before else 0
            before = patterns
            if num_settled == _SETTLED:
                break
        return True

    return bool(meeting.attempt(one.name, run)) if one.is_optional else run()


def settle(runs: Sequence[Ran], depth: int, meeting: Meeting) -> Steady:
    """Return the medians over rounds, each of the slowest rank."""
    rounds = [steady(ran, depth) for ran in runs]
    slowest = [meeting.slowest(one.batch_ns, 1e6 * one.idle_share, one.communication_ns) for one in rounds]
    batch_ns, idle, communication_ns = (median(values) for values in zip(*slowest, strict=True))
    return Steady(batch_ns=batch_ns, idle_share=idle / 1e6, communication_ns=communication_ns)
