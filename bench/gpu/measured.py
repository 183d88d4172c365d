"""What the ranks of one shape know together: their engines, and the costs that all of them plan with."""

from dataclasses import dataclass, field

from bench.gpu.clock import Clock
from bench.gpu.flow import Flow, Laid, Track
from bench.gpu.meeting import Meeting
from bench.gpu.rank_engine import NUM_SLOTS, Engines, Running
from bench.gpu.settings import Settings
from bench.gpu.timing import Contestant
from controller.core.cost_model import CostModel, Shape
from controller.core.depth import DepthControl
from controller.core.plan import Strategy
from liger.domain import BatchKind
from liger.schedule import SequenceStart

_LEAST_BATCHES = 9  # of a timed flow, beside those of its begin and end
_MOST_BATCHES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One shape on one rank."""

    name: str  # of the shape
    settings: Settings
    meeting: Meeting
    engines: Engines
    clock: Clock
    exchange: Running  # that interleaving uses
    costs: CostModel  # from the profile that its ranks agreed on
    depth: DepthControl  # the product's, with those costs
    num_devices: int
    numbered: "dict[str, Flows]" = field(default_factory=dict)  # by engine

    def flows(self, running: Running) -> "Flows":
        """Return the flows of an engine, in whichever part they are asked for."""
        return self.numbered.setdefault(running.name, Flows(self, running))

    def flow(self, running: Running, depth: int, strategy: Strategy | None = None) -> Flow:
        """Return what lays flows for an engine: serial tensor parallelism at depth 1, else interleaving."""
        chosen = strategy or (Strategy.TENSOR if depth == 1 else Strategy.INTERLEAVED)
        return Flow(running.planner(chosen, self.costs), self.costs, depth=depth, fence=running.fence)

    def alone_ns(self, shape: Shape) -> float:
        """Return how long a batch takes by itself, as predicted."""
        return sum(self.costs.duration_ns(shape, one.kind) for one in self.exchange.forwards[shape.kind])

    def num_batches(self, shape: Shape, depth: int) -> int:
        """Return how many batches a timed flow has: it lasts about `flow_ms`, by predicted times, so on all ranks."""
        wanted = round(self.settings.flow_ms * 1e6 / max(self.alone_ns(shape), 1.0))
        return min(max(wanted, _LEAST_BATCHES), _MOST_BATCHES) + 2 * depth


class Flows:
    """The flows of one engine, one after another: its windows and batches are numbered through.

    An engine takes windows by number, so all flows of one engine are laid here, whatever their depth.
    """

    def __init__(self, bench: Bench, running: Running) -> None:
        self._bench = bench
        self.running = running
        self._num_windows = 0
        self._num_batches = 0
        self._by_depth: dict[int, Flow] = {}

    def contestant(
        self, name: str, tracks: list[Track], *, depth: int, num_batches: int, is_optional: bool = False
    ) -> Contestant:
        """Return one way to run some tracks on the engine.

        Args:
            name: Of the contestant.
            tracks: What it runs.
            depth: Batches in flight.
            num_batches: Of a flow.
            is_optional: Whether it is left out if it cannot run.
        """

        def lay() -> list[Laid]:
            return self.lay(tracks, depth=depth, num_batches=num_batches)

        return Contestant(name=name, running=self.running, lay=lay, depth=depth, is_optional=is_optional)

    def lay(
        self,
        tracks: list[Track],
        *,
        depth: int,
        num_batches: int,
        begin: tuple[SequenceStart, ...] = (),
        end: tuple[int, ...] = (),
    ) -> list[Laid]:
        """Return the next flow's windows."""
        if depth not in self._by_depth:
            self._by_depth[depth] = self._bench.flow(self.running, depth)
        flow = self._by_depth[depth]
        flow.num_windows, flow.num_batches = self._num_windows, self._num_batches
        laid = flow.lay(tracks, num_batches, begin=begin, end=end)
        self._num_windows, self._num_batches = flow.num_windows, flow.num_batches
        return laid


def depth_control(running: Running, costs: CostModel) -> DepthControl:
    """Return what decides how many batches an engine has in flight."""
    return DepthControl(
        strategy=Strategy.INTERLEAVED, num_stages=1, max_depth=NUM_SLOTS, forwards=running.forwards, costs=costs
    )


def encode_shape(num_tokens: int) -> Shape:
    """Return the shape of an encode batch."""
    return Shape(BatchKind.ENCODE, num_tokens)
