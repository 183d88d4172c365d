"""The pure core of one epoch, put together from the configuration and what the ranks answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from controller.config import ControllerConfig
from controller.core.admission import ModelLimits, SchedulerLimits
from controller.core.batch_manager import BatchManager
from controller.core.block_manager import BlockManager
from controller.core.cost_model import CostModel
from controller.core.depth import DepthControl
from controller.core.explain import explain
from controller.core.limits import BatchLimits
from controller.core.observer import Observer
from controller.core.plan import Forwards, Strategy, Topology
from controller.core.planner import Planner
from controller.core.scheduler import Scheduler
from controller.core.situation import InterleaveOptions
from controller.forming import Formed, num_slots
from liger.domain import Fence, ModelCard, Task
from liger.errors import InvalidRequestError, UnavailableError
from liger.views import Explained, PlannedBatch, ProfileView

_MOST_MIXED_SLACK: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """What decides for one group in one epoch."""

    group: str
    forwards: Forwards
    topology: Topology
    costs: CostModel | None  # None where nothing is interleaved
    options: InterleaveOptions
    blocks: BlockManager
    batches: BatchManager
    depth: DepthControl
    planner: Planner
    observer: Observer
    scheduler: Scheduler

    def explain(self, batches: Sequence[PlannedBatch], depth: int) -> Explained:
        """Plan made-up batches as the epoch's planner would.

        Raises:
            UnavailableError: The ranks have measured nothing.
        """
        if self.costs is None:
            raise UnavailableError(
                f"group {self.group} plans nothing: that takes several ranks and --strategy interleaved"
            )
        return explain(
            batches, depth, forwards=self.forwards, topology=self.topology, costs=self.costs, options=self.options
        )

    def check_profiled(self) -> None:
        """Refuse what takes a profile.

        Raises:
            InvalidRequestError: This group plans without one.
        """
        if self.costs is None:
            raise InvalidRequestError(f"group {self.group} has no profile: its strategy plans without one")

    def profile(self) -> ProfileView:
        """Return what the ranks measured, and how well predictions hold."""
        costs = self.costs
        if costs is None:
            return ProfileView()
        return ProfileView(table=costs.table, corrections=costs.corrections(), prediction_error=costs.error)

    def shown(self) -> dict[str, Any]:
        """Return what `GroupStatus` shows of the epoch, by field."""
        blocks, batches, memory, observer = self.blocks, self.batches, self.batches.memory, self.observer
        return {
            "num_waiting": batches.num_waiting,
            "num_waiting_tokens": batches.num_waiting_tokens,
            "num_running": len(batches.running),
            "num_blocks": blocks.num_blocks,
            "num_used_blocks": blocks.num_used,
            "num_cached_blocks": blocks.num_cached,
            "block_size": blocks.block_size,
            "prefix_query_tokens": memory.num_looked_up,
            "prefix_hit_tokens": memory.num_found,
            "num_preemptions": memory.num_preemptions,
            "num_windows": self.scheduler.num_windows,
            "num_in_flight": self.scheduler.num_in_flight,
            "prediction_error": observer.prediction_error,
            "hidden_share": observer.hidden_share,
            "window_mixes": observer.mixes(),
            "decode_choice": self.depth.decode_choice if batches.is_decoding else None,
            "task_shares": batches.shares(),
        }


def _mixed_slack(weights: Mapping[Task, float]) -> float:
    """Return how much longer a decode step may take for work beside it: as much as that is due by its weight."""
    others = max(weight for task, weight in weights.items() if task is not Task.GENERATE)
    return min(_MOST_MIXED_SLACK, others / weights[Task.GENERATE])


def make_planning(fence: Fence, formed: Formed, config: ControllerConfig) -> Planning:
    """Put the core together for ranks that have joined."""
    joined, topology, strategy = formed.joined, formed.topology, Strategy(config.strategy)
    forwards = joined[0].forwards
    costs = CostModel(formed.profile) if formed.profile is not None else None
    depth = DepthControl(
        strategy=strategy,
        num_stages=topology.pp_size,
        max_depth=num_slots(config, topology),
        forwards=forwards,
        costs=costs,
        window_ns=config.window_ms * 1e6,
    )
    blocks = BlockManager(num_blocks=min(each.num_blocks for each in joined), block_size=joined[0].block_size)
    limits = BatchLimits(
        max_batch_tokens=config.max_batch_tokens,
        max_sequences=config.max_sequences,
        max_beside_tokens=config.max_beside_tokens,
        max_unread_tokens=config.max_unread_tokens,
        weights=config.weights_of_tasks(),
    )
    batches = BatchManager(limits, blocks, depth)
    options = InterleaveOptions(
        slack=config.primary_slack,
        pressed_slack=config.pressed_slack,
        mixed_slack=_mixed_slack(limits.weights),
        window_ns=config.window_ms * 1e6,
        max_pieces=config.max_pieces,
    )
    planner = Planner(forwards, strategy=strategy, topology=topology, costs=costs, options=options)
    observer = Observer(forwards, costs)
    bounds = _limits(config, topology, formed.links[0].member.model)
    scheduler = Scheduler(
        fence=fence, limits=bounds, planner=planner, batches=batches, depth=depth, observer=observer
    )  # fmt: skip
    return Planning(
        group=fence.group,
        forwards=forwards,
        topology=topology,
        costs=costs,
        options=options,
        blocks=blocks,
        batches=batches,
        depth=depth,
        planner=planner,
        observer=observer,
        scheduler=scheduler,
    )


def _limits(config: ControllerConfig, topology: Topology, card: ModelCard) -> SchedulerLimits:
    return SchedulerLimits(
        windows_ahead=max(config.windows_ahead, topology.pp_size),
        max_requests=config.max_requests,
        max_waiting_tokens=config.max_waiting_tokens,
        model=ModelLimits(
            max_length=card.max_length, vocabulary_size=card.vocabulary_size, num_token_types=card.num_token_types
        ),
    )
