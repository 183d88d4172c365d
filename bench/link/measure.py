"""Measures one load: what each contestant sustains, then latencies at chosen rates, in turn and several times."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Final

from bench.link.clusters import Contest, Contestant, running_contestants
from bench.link.figures import closed_loop_figures, open_loop_figures
from bench.link.lanes import read_lanes
from bench.link.models import make_model
from bench.link.runs import SATURATION, RatePoint, Run, choose_rates
from bench.link.work import Load, draw_arrivals, draw_calls
from liger.errors import UnavailableError
from liger.models.store import liger_home

_NUM_FULL_BATCHES: Final = 5  # that calls under way must fill: those in flight, and more to choose from
_MEAN_INPUT_TOKENS: Final = 72
_NUM_SEQUENCES: Final = 24  # under way at once
_NUM_SEQUENCES_IF_QUICK: Final = 6
_FEWEST_CALLS: Final = 40  # of a point, unless that takes longer than LONGEST times the others
_LONGEST: Final = 3


class Measurement:
    """One load's.

    Args:
        contest: What is compared, and where.
        tell: Told what begins.
        note: Given every point.
    """

    def __init__(self, contest: Contest, tell: Callable[[str], None], note: Callable[[Run], None]) -> None:
        self._contest = contest
        self._settings = contest.settings
        self._load = contest.load
        self._tell = tell
        self._note = note
        self._runs: list[Run] = []

    async def run(self) -> list[Run]:
        """Measure everything and return all points.

        Raises:
            LigerError: A cluster does not start, or answers nothing.
        """
        settings = self._settings
        self._tell("making the model")
        model = make_model(self._load, settings.hidden, settings.layers, liger_home() / "bench")
        async with running_contestants(self._contest, model, self._tell) as contestants:
            num_calls = await self._warm_up(contestants)
            for number in range(1, settings.rounds + 1):
                for contestant in _rotated(contestants, number):
                    await self._saturate(contestant, number, num_calls)
            points = choose_rates(self._sustained(), quick=settings.quick)
            for number in range(1, settings.rounds + 1):
                for point in points:
                    chosen = [contestant for contestant in contestants if contestant.name in point.strategies]
                    for contestant in _rotated(chosen, number):
                        await self._arrive(contestant, number, point)
        return self._runs

    async def _warm_up(self, contestants: Sequence[Contestant]) -> int:
        """Let every contestant run once, and return how many calls fill a point's time for the slowest."""
        slowest = math.inf
        for contestant in contestants:
            self._tell(f"warming up {contestant.name}")
            calls = draw_calls(self._load, self._num_outstanding, f"{self._settings.seed} warm-up")
            figures = open_loop_figures(await contestant.load.keep_busy(calls, self._num_outstanding))
            if figures.num_failed == figures.num_calls:
                raise UnavailableError(f"{contestant.name} answers no {self._load.value} call: {figures.error}")
            slowest = min(slowest, figures.calls_per_s)
        return 2 * self._num_outstanding + math.ceil(slowest * self._settings.seconds)

    async def _saturate(self, contestant: Contestant, number: int, num_calls: int) -> None:
        self._tell(f"round {number}: {contestant.name} with as much work as it takes")
        calls = draw_calls(self._load, num_calls, f"{self._settings.seed} {number}")
        answers = await contestant.load.keep_busy(calls, self._num_outstanding)
        last_s = max(answer.ended_s for answer in answers)
        run = Run(
            load=self._load,
            strategy=contestant.name,
            round=number,
            label=SATURATION,
            rate=None,
            figures=closed_loop_figures(answers, self._num_outstanding),
            lanes=await read_lanes(contestant.controller, contestant.group, last_s),
        )
        self._runs.append(run)
        self._note(run)

    async def _arrive(self, contestant: Contestant, number: int, point: RatePoint) -> None:
        self._tell(f"round {number}: {contestant.name} at {point.rate:.1f} calls/s ({point.label})")
        seconds = self._settings.seconds
        duration_s = max(seconds, min(_FEWEST_CALLS / point.rate, _LONGEST * seconds))
        seed = f"{self._settings.seed} {number} {point.label}"
        arrivals = draw_arrivals(point.rate, duration_s, seed)
        calls = draw_calls(self._load, len(arrivals), seed)
        figures = open_loop_figures(await contestant.load.send_at(calls, arrivals))
        run = Run(
            load=self._load,
            strategy=contestant.name,
            round=number,
            label=point.label,
            rate=point.rate,
            figures=figures,
            lanes=None,
        )
        self._runs.append(run)
        self._note(run)

    @property
    def _num_outstanding(self) -> int:
        if self._load is Load.GENERATIVE:
            return _NUM_SEQUENCES_IF_QUICK if self._settings.quick else _NUM_SEQUENCES
        return math.ceil(_NUM_FULL_BATCHES * self._settings.max_batch_tokens / _MEAN_INPUT_TOKENS)

    def _sustained(self) -> dict[str, float]:
        return {
            name: statistics.median(
                run.figures.calls_per_s for run in self._runs if run.strategy == name and run.label == SATURATION
            )
            for name in self._settings.strategies
        }


def _rotated(contestants: Sequence[Contestant], number: int) -> list[Contestant]:
    """Return all in turn; who begins changes with the round, so that a drift of the machine favours none."""
    first = (number - 1) % len(contestants)
    return [*contestants[first:], *contestants[:first]]
