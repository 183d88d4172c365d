"""How an epoch begins: every rank joins, and where batches are interleaved the ranks measure their model."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from controller.config import ControllerConfig
from controller.core.plan import Strategy, Topology
from controller.failures import first_failure
from controller.membership.base import Member
from controller.rank_link import Joined, JoinPlan, RankLink
from liger.domain import BatchKind, Fence, ModelCard, Task
from liger.errors import GroupFailedError
from liger.profile import ProfileTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Formed:
    """A group that is ready to serve."""

    links: Sequence[RankLink]  # one a rank, in rank order
    joined: Sequence[Joined]  # what each rank answered
    topology: Topology
    profile: ProfileTable | None  # what the ranks measured; None where nothing is interleaved


def num_slots(config: ControllerConfig, topology: Topology) -> int:
    """Return how many batches may be in flight at once, at most."""
    match Strategy(config.strategy):
        case Strategy.TENSOR:
            return 1
        case Strategy.PIPELINE:
            return topology.pp_size
        case Strategy.INTERLEAVED:
            return config.max_depth


def topology_of(members: Sequence[Member]) -> Topology:
    """Return how the members' ranks are laid out."""
    return Topology(tp_size=members[0].tp_size, pp_size=members[0].pp_size)


def stage_layers(config: ControllerConfig, topology: Topology, num_layers: int) -> tuple[int, ...]:
    """Return the layers of each stage: as configured, else even shares, the larger ones first.

    Raises:
        GroupFailedError: They do not fit the model or the stages.
    """
    given = config.layers_of_stages()
    if given and topology.pp_size > 1:
        if len(given) != topology.pp_size or sum(given) != num_layers:
            raise GroupFailedError(
                f"--stage-layers {config.stage_layers} does not fit {topology.pp_size} stages and {num_layers} layers"
            )
        return given
    if num_layers < topology.pp_size:
        raise GroupFailedError(f"{num_layers} layers cannot be shared among {topology.pp_size} stages")
    share, rest = divmod(num_layers, topology.pp_size)
    return tuple(share + (stage < rest) for stage in range(topology.pp_size))


def by_rank(members: Sequence[Member]) -> list[Member]:
    """Return one member a rank: the place it asked for if that is free, the others in order of arrival."""
    world_size = members[0].world_size
    places: dict[int, Member] = {}
    others: list[Member] = []
    for member in members:
        if member.rank is not None and member.rank not in places:
            places[member.rank] = member
        else:
            others.append(member)
    rest = iter(others)
    return [places[rank] if rank in places else next(rest) for rank in range(world_size)]


async def form_epoch(
    *,
    fence: Fence,
    members: Sequence[Member],
    config: ControllerConfig,
    on_progress: Callable[[int, str, float], None],
    fresh: bool = False,
) -> Formed:
    """Make the members join, in rank order, and measure where that is of use.

    Args:
        fence: The new epoch's.
        members: One a rank, in rank order.
        config: Bounds.
        on_progress: Takes (rank, phase, share done).
        fresh: Measures even if the ranks have a profile on disk.

    Raises:
        GroupFailedError: A rank could not join.
    """
    links = [RankLink(member, rank) for rank, member in enumerate(members)]
    try:
        joined = await _join_all(links, fence, config, on_progress)
        profile = await _profile_all(links, fence, config, on_progress, fresh=fresh)
    except BaseException:
        await asyncio.gather(*(link.leave(fence) for link in links))
        raise
    return Formed(links=links, joined=joined, topology=topology_of(members), profile=profile)


async def _profile_all(
    links: Sequence[RankLink],
    fence: Fence,
    config: ControllerConfig,
    on_progress: Callable[[int, str, float], None],
    *,
    fresh: bool,
) -> ProfileTable | None:
    """Return what the ranks measured; None where there is nothing to interleave."""
    topology = topology_of([link.member for link in links])
    if Strategy(config.strategy) is not Strategy.INTERLEAVED or len(links) == 1:
        return None
    try:
        async with asyncio.TaskGroup() as tasks:
            profiles = [tasks.create_task(_profile(link, fence, config, on_progress, fresh=fresh)) for link in links]
    except* GroupFailedError as group:
        raise first_failure(group) from group
    first_stage = [profile.result() for profile in profiles[: topology.tp_size]]
    if any(each != first_stage[0] for each in first_stage):
        raise GroupFailedError("the ranks measured different profiles; all must run the same version and model")
    return _joined(first_stage[0], profiles[-1].result())


def _joined(first: ProfileTable, last: ProfileTable) -> ProfileTable:
    """Return the first stage's table with what only the last stage runs: head, gather, sample."""
    known = {sample.segment for sample in first.segments}
    return replace(first, segments=(*first.segments, *(each for each in last.segments if each.segment not in known)))


async def _profile(
    link: RankLink,
    fence: Fence,
    config: ControllerConfig,
    on_progress: Callable[[int, str, float], None],
    *,
    fresh: bool,
) -> ProfileTable:
    def tell(phase: str, share: float) -> None:
        on_progress(link.rank, phase, share)

    return await link.profile(fence, config.profile_limit_s, tell, fresh=fresh)


async def _join_all(
    links: Sequence[RankLink], fence: Fence, config: ControllerConfig, on_progress: Callable[[int, str, float], None]
) -> list[Joined]:
    members = [link.member for link in links]
    try:
        async with asyncio.TaskGroup() as tasks:
            joins = [tasks.create_task(_join(link, members, fence, config, on_progress)) for link in links]
    except* GroupFailedError as group:
        raise first_failure(group) from group
    joined = [join.result() for join in joins]
    _check_joined(joined, members[0].model)
    return joined


def _check_joined(joined: Sequence[Joined], card: ModelCard) -> None:
    first = joined[0]
    if any(each.forwards != first.forwards for each in joined):
        raise GroupFailedError("the ranks reported different segments; all must run the same version and model")
    if first.block_size < 1 or any(each.block_size != first.block_size for each in joined):
        raise GroupFailedError("the ranks have different KV blocks; start all workers with the same --block-size")
    needed = {BatchKind.PREFILL, BatchKind.DECODE} if Task.GENERATE in card.tasks else set()
    if not needed | {BatchKind.ENCODE} <= first.forwards.keys():
        raise GroupFailedError(f"the ranks cannot run what model {card.name} is for; use one version everywhere")


async def _join(
    link: RankLink,
    members: Sequence[Member],
    fence: Fence,
    config: ControllerConfig,
    on_progress: Callable[[int, str, float], None],
) -> Joined:
    member = link.member
    topology = topology_of(members)
    plan = JoinPlan(
        fence=fence,
        tp_rank=link.rank % member.tp_size,
        tp_size=member.tp_size,
        pp_stage=link.rank // member.tp_size,
        pp_size=member.pp_size,
        rendezvous_endpoint=members[0].rendezvous_endpoint,
        num_slots=num_slots(config, topology),
        max_batch_tokens=config.max_batch_tokens,
        num_rows=config.max_sequences,
        stage_layers=stage_layers(config, topology, member.model.num_layers),
    )
    return await link.join(plan, config.join_limit_s, lambda phase, share: on_progress(link.rank, phase, share))
