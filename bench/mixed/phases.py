"""Measures the phases in turn: streams alone, embeddings alone, both without weights, both with them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

from bench.link.figures import Answer, closed_loop_figures
from bench.link.work import Call, draw_arrivals
from bench.mixed.clusters import MODEL, Service, Services
from bench.mixed.figures import (
    EmbedFigures,
    Phase,
    PhaseRun,
    RankFigures,
    arriving_figures,
    compute_shares,
    stream_figures,
)
from bench.mixed.settings import Settings
from bench.mixed.streams import Arrival
from bench.mixed.work import embeddings, generations, until
from liger.cluster_state import fetch_cluster
from liger.cluster_views import fetch_timeline
from liger.errors import LigerError, UnavailableError
from liger.spans import hidden_share

_TIMELINE_S: Final = 5.0  # of a phase's end; more is a large message
_WARM_UP: Final = 2  # phases' warm-up times, for each cluster before the first phase


def order_of(round_number: int) -> tuple[Phase, ...]:
    """Return a round's phases: saturation sets the rate in the first; the two that are compared change places."""
    both = (Phase.UNWEIGHTED, Phase.WEIGHTED)
    saturation = (Phase.SATURATION,) if round_number == 1 else ()
    return (Phase.STREAMS, *saturation, *(both if round_number % 2 else reversed(both)))


def num_steps(settings: Settings) -> int:
    """Return how many steps a run has: starts, warm-ups, phases."""
    return 4 + sum(len(order_of(number)) for number in range(1, settings.rounds + 1))


class Measurement:
    """One run.

    Args:
        settings: What is measured.
        services: The clusters.
        tell: Told what begins.
        note: Given every phase's figures.
    """

    def __init__(
        self,
        settings: Settings,
        services: Services,
        tell: Callable[[str], None],
        note: Callable[[PhaseRun], None],
    ) -> None:
        self._settings = settings
        self._services = services
        self._tell = tell
        self._note = note
        self._rate = 0.0  # of embeddings that come by chance, calls a second

    async def run(self) -> list[PhaseRun]:
        """Measure everything.

        Raises:
            LigerError: A generation fails, or no embedding succeeds.
        """
        await self._warm_up()
        runs = []
        for number in range(1, self._settings.rounds + 1):
            for phase in order_of(number):
                self._tell(f"round {number}: {phase}")
                runs.append(await self._measure(phase, number))
                self._note(runs[-1])
        return runs

    async def _warm_up(self) -> None:
        """Let both clusters see every kind of batch, so that neither plans more than the other later."""
        settings, services = self._settings, self._services
        duration_s = _WARM_UP * max(settings.warm_up_s, 1.0)
        for service, name in ((services.plain, "without"), (services.weighted, "with")):
            self._tell(f"warming up the cluster {name} weights")
            calls = until(
                embeddings(service.vocabulary, "warm-up"), time.perf_counter() + duration_s, time.perf_counter
            )
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(service.load.keep_busy(calls, 8))
                tasks.create_task(service.streams.read(self._prompts(service, 0), duration_s))

    async def _measure(self, phase: Phase, number: int) -> PhaseRun:
        plain, weighted = self._services.plain, self._services.weighted
        match phase:
            case Phase.STREAMS:  # weights say nothing where one task runs: the clusters take turns
                return await self._stream(phase, plain if number % 2 else weighted, number)
            case Phase.SATURATION:
                return await self._saturate(plain, number)
            case _:
                return await self._stream(phase, plain if phase is Phase.UNWEIGHTED else weighted, number)

    async def _stream(self, phase: Phase, service: Service, number: int) -> PhaseRun:
        """Read streams, with embeddings beside them unless they are to be alone."""
        begin_s = self._settings.warm_up_s
        end_s = begin_s + self._settings.seconds
        arrivals_s = draw_arrivals(self._rate, end_s, self._seed(number)) if phase is not Phase.STREAMS else []
        calls = embeddings(service.vocabulary, self._seed(number))
        async with asyncio.TaskGroup() as tasks:
            embedding = tasks.create_task(
                service.load.send_at([next(calls) for _ in arrivals_s], arrivals_s), name="embeddings"
            )
            reading = tasks.create_task(self._read_streams(service, number, end_s), name="streams")
        arrivals, ranks = reading.result()
        return PhaseRun(
            phase=phase,
            round=number,
            streams=stream_figures(arrivals, begin_s, end_s),
            embeddings=arriving_figures(embedding.result(), begin_s, end_s) if arrivals_s else None,
            ranks=ranks,
        )

    async def _read_streams(
        self, service: Service, number: int, duration_s: float
    ) -> tuple[list[Arrival], RankFigures | None]:
        arrivals = await service.streams.read(self._prompts(service, number), duration_s)
        return arrivals, await _read_ranks(service)

    async def _saturate(self, service: Service, number: int) -> PhaseRun:
        """Keep embeddings waiting, and set the rate at which they come in the phases that follow."""
        settings = self._settings
        end_s = time.perf_counter() + settings.warm_up_s + settings.seconds
        calls = until(embeddings(service.vocabulary, f"saturation {self._seed(number)}"), end_s, time.perf_counter)
        answers = await service.load.keep_busy(calls, settings.outstanding)
        figures = _saturated_figures(answers, settings.outstanding)
        if figures.calls_per_s <= 0:
            raise UnavailableError(f"no embedding succeeds: {figures.error or 'none ended in time'}")
        self._rate = settings.share * figures.calls_per_s
        ranks = await _read_ranks(service)
        return PhaseRun(phase=Phase.SATURATION, round=number, streams=None, embeddings=figures, ranks=ranks)

    def _prompts(self, service: Service, number: int) -> list[Iterator[Call]]:
        seed = self._seed(number)
        return [generations(service.vocabulary, f"{seed} {stream}") for stream in range(self._settings.streams)]

    def _seed(self, number: int) -> str:
        return f"{self._settings.seed} {number}"


def _saturated_figures(answers: list[Answer], outstanding: int) -> EmbedFigures:
    figures = closed_loop_figures(answers, outstanding)
    return EmbedFigures(
        offered_per_s=None,
        calls_per_s=figures.calls_per_s,
        tokens_per_s=figures.tokens_per_s,
        p50_s=figures.p50_s,
        p90_s=figures.p90_s,
        num_failed=figures.num_failed,
        error=figures.error,
    )


async def _read_ranks(service: Service) -> RankFigures | None:
    """Ask the controller what its ranks did lately; None if it does not tell."""
    try:
        state = await fetch_cluster(service.controller)
        spans = await fetch_timeline(service.controller, MODEL, _TIMELINE_S)
    except LigerError:
        return None
    group = state.groups[0]
    return RankFigures(
        compute_shares=compute_shares(spans),
        hidden_share=hidden_share(spans),
        mixes=group.window_mixes,
        task_shares=group.task_shares,
    )
