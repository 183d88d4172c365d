"""The scheduler in this process: no messages, no network, a simulated rank that answers at once."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence

from bench.controller.made_up import BLOCK_SIZE, CARD, FORWARDS, MODEL, Load, blocks_for, made_profile
from bench.controller.meter import OTHERS, Figures, Meter
from bench.controller.rank import SimulatedRank
from controller.codec.gateways import to_request
from controller.config import ControllerConfig
from controller.core.events import Event, RequestBroken, RequestEnded, StepMade, TokensMade
from controller.core.plan import Topology
from controller.core.requests import Request
from controller.core.scheduler import Scheduler
from controller.core.window_report import WindowReport
from controller.forming import Formed
from controller.membership.base import Member
from controller.planning import make_planning
from controller.rank_link import Joined, RankLink
from liger.domain import Fence
from liger.schedule import Pattern, Window, WindowOutcome

FENCE = Fence(leader_term=1, group=MODEL, epoch=1)


def make_config(strategy: str, num_sequences: int) -> ControllerConfig:
    """Return the configuration of a controller for so many running sequences."""
    return ControllerConfig(strategy=strategy, max_sequences=num_sequences, max_requests=2 * num_sequences)


def make_members(num_ranks: int) -> list[Member]:
    """Return workers that hold the made-up model."""
    return [
        Member(
            worker_id=f"worker-{rank}",
            address="127.0.0.1:1",
            group=MODEL,
            model=CARD,
            tp_size=num_ranks,
            pp_size=1,
            rank=rank,
            rendezvous_endpoint="127.0.0.1:1",
            device_id="",
            device="simulated",
            version="",
        )
        for rank in range(num_ranks)
    ]


def make_formed(links: Sequence[RankLink], strategy: str, num_sequences: int) -> Formed:
    """Return ranks that have joined."""
    joined = Joined(
        forwards=FORWARDS,
        num_blocks=blocks_for(num_sequences),
        block_size=BLOCK_SIZE,
        weight_bytes=0,
        kv_bytes=0,
    )
    profile = made_profile() if strategy == "interleaved" else None
    topology = Topology(tp_size=len(links))
    return Formed(links=links, joined=[joined] * len(links), topology=topology, profile=profile)


def count_tokens(events: Sequence[Event]) -> int:
    """Return how many tokens were made.

    Raises:
        LigerError: A request broke, so that the figures would mean nothing.
    """
    for event in events:
        if isinstance(event, RequestBroken):
            raise event.error
    return sum(len(event.token_ids) for event in events if isinstance(event, StepMade | TokensMade))


async def measure_core(strategy: str, load: Load, num_ranks: int, seconds: float) -> Figures:
    """Drive the scheduler step by step; requests that end are followed by others."""
    links = [RankLink(member, rank) for rank, member in enumerate(make_members(num_ranks))]
    config = make_config(strategy, load.num_sequences)
    scheduler = make_planning(FENCE, make_formed(links, strategy, load.num_sequences), config).scheduler
    meter = Meter(load.num_sequences, seconds, rest=OTHERS)
    try:
        _drive(scheduler, _requests(load), meter, num_ranks, load.num_sequences)
    finally:
        await asyncio.gather(*(link.close() for link in links))
    return meter.figures("scheduler alone")


def _requests(load: Load) -> Iterator[Request]:
    return (to_request(message.submit, 0) for message in load.submits())


def _drive(scheduler: Scheduler, requests: Iterator[Request], meter: Meter, num_ranks: int, num_missing: int) -> None:
    rank = SimulatedRank(0, is_reporter=True)
    outcomes: deque[WindowOutcome] = deque()
    while not meter.is_done:
        fresh = [next(requests) for _ in range(num_missing)]
        with meter.part("submit"):
            for request in fresh:
                scheduler.submit(request, time.monotonic_ns())
        while (planned := _next_window(scheduler, meter)) is not None:
            outcomes.append(rank.run(*planned))
        outcome = outcomes.popleft()
        report = WindowReport(outcome=outcome, timings=(outcome.timings,) * num_ranks)
        with meter.part("commit"):
            events, _ = scheduler.commit(report, time.monotonic_ns())
        with meter.part("deadlines"):
            scheduler.expire(time.monotonic_ns())
            scheduler.next_deadline_ns()
        meter.made(count_tokens(events))
        num_missing = sum(isinstance(event, RequestEnded) for event in events)


def _next_window(scheduler: Scheduler, meter: Meter) -> tuple[Pattern, Window] | None:
    with meter.part("next window"):
        return scheduler.next_window(time.monotonic_ns())
