"""All that the controller's process does but for gRPC: ranks and a gateway in this process, messages as bytes.

The controller's own step loop, dispatcher, codecs and gateway session run here; what stands in for ranks and gateway
runs on the same thread and is taken off the time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from bench.controller.core import FENCE, count_tokens, make_config, make_formed, make_members
from bench.controller.made_up import Client, Load
from bench.controller.meter import OTHERS, Figures, Meter
from bench.controller.rank import SimulatedRank
from controller.codec.ranks import to_outcome
from controller.core.events import Event, RequestBroken, RequestEnded
from controller.core.requests import Request
from controller.epoch import Epoch
from controller.gateways import GatewaySession
from controller.group import Group, Sink
from controller.groups import Groups
from controller.membership.base import Member
from controller.rank_link import RankLink
from controller.timeline import Timeline
from liger.domain import Fence, FinishReason
from liger.schedule import Pattern, WindowOutcome
from liger.v1 import controller_pb2, worker_pb2
from worker.codec import from_outcome, to_pattern, to_window


async def measure_loopback(strategy: str, load: Load, num_ranks: int, seconds: float) -> Figures:
    """Serve a gateway that keeps so many generations under way."""
    meter = Meter(load.num_sequences, seconds, rest="scheduler, windows to bytes, loop")
    links = [LoopbackLink(member, rank, meter) for rank, member in enumerate(make_members(num_ranks))]
    group = LoopbackGroup(meter)
    epoch = Epoch(
        fence=FENCE,
        formed=make_formed(links, strategy, load.num_sequences),
        config=make_config(strategy, load.num_sequences),
        deliver=group.deliver,
        timeline=Timeline(),
    )
    group.epoch = epoch
    serving = asyncio.create_task(epoch.serve())
    using = asyncio.create_task(_use(GatewaySession("bench", LoopbackGroups(group)), Client(load), meter))
    try:
        await asyncio.wait([serving, using], return_when=asyncio.FIRST_COMPLETED)
        (serving if serving.done() else using).result()
    finally:
        serving.cancel()
        using.cancel()
        await asyncio.gather(serving, using, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in links))
    return meter.figures("with messages, without gRPC")


async def _use(session: GatewaySession, client: Client, meter: Meter) -> None:
    """Be the gateway."""
    responses = session.messages()
    with meter.part(OTHERS):
        requests = [request.SerializeToString() for request in client.begin()]
    while not meter.is_done:
        for request in requests:
            with meter.part("requests from bytes, submit"):
                session.take(controller_pb2.ConnectRequest.FromString(request))
        response = await anext(responses)
        with meter.part("events to bytes"):
            data = response.SerializeToString()
        with meter.part(OTHERS):
            said = client.take(controller_pb2.ConnectResponse.FromString(data))
            requests = [request.SerializeToString() for request in said]


class LoopbackLink(RankLink):
    """A link to a simulated rank in this process, which is given bytes and gives bytes."""

    def __init__(self, member: Member, rank: int, meter: Meter) -> None:
        super().__init__(member, rank)
        self._meter = meter
        self._simulated = SimulatedRank(rank, is_reporter=rank == 0)
        self._patterns: dict[int, Pattern] = {}
        self._results: asyncio.Queue[bytes] = asyncio.Queue()

    async def attach(self, fence: Fence) -> None:
        """Begin the epoch's conversation."""

    async def publish(self, requests: Sequence[bytes]) -> None:
        """Have the rank do what it is sent."""
        with self._meter.part(OTHERS):
            for request in requests:
                self._run(worker_pb2.ExecuteRequest.FromString(request))

    async def outcomes(self) -> AsyncIterator[WindowOutcome]:
        """Give what the rank answered."""
        while True:
            result = await self._results.get()
            with self._meter.part("results from bytes"):
                outcome = to_outcome(worker_pb2.ExecuteResponse.FromString(result).result)
            yield outcome

    def _run(self, request: worker_pb2.ExecuteRequest) -> None:
        if request.HasField("pattern"):
            self._patterns[request.pattern.id] = to_pattern(request.pattern)
            return
        window = to_window(request.schedule)
        outcome = self._simulated.run(self._patterns[window.pattern_id], window)
        self._results.put_nowait(from_outcome(outcome).SerializeToString())


@dataclass(eq=False)
class LoopbackGroup(Group):
    """A group that serves one epoch."""

    meter: Meter
    epoch: Epoch | None = None
    sinks: dict[str, Sink] = field(default_factory=dict)

    def submit(self, request: Request, sink: Sink) -> None:
        """Take a request; `sink` gets its events."""
        assert self.epoch is not None, "it serves"
        self.epoch.scheduler.submit(request, time.monotonic_ns())
        self.sinks[request.request_id] = sink
        self.epoch.wake.set()

    def cancel(self, request_id: str, sample: int | None, reason: FinishReason) -> None:
        """Do nothing: what is left at the end is given up with the process."""

    def acknowledge(self, request_id: str, sample: int, num_tokens: int) -> None:
        """Note how much of a sample the client has."""
        assert self.epoch is not None, "it serves"
        self.epoch.scheduler.acknowledge(request_id, sample, num_tokens)
        self.epoch.wake.set()

    def deliver(self, events: Sequence[Event]) -> None:
        """Bring events to the gateway's session."""
        with self.meter.part("events to messages"):
            for event in events:
                is_last = isinstance(event, RequestEnded | RequestBroken)
                sink = self.sinks.pop(event.request_id) if is_last else self.sinks[event.request_id]
                sink(event, FENCE, ("worker-0", "worker-1"))
        if events:  # expiring ends nothing here
            self.meter.made(count_tokens(events))


class LoopbackGroups(Groups):
    """The one group there is."""

    def __init__(self, group: LoopbackGroup) -> None:
        self._group = group

    def submit(self, request: Request, sink: Sink) -> Group:
        """Give a request to the group."""
        self._group.submit(request, sink)
        return self._group
