"""Registrations, checked; the cluster's state for people."""

from collections.abc import Iterable

from controller.membership.base import Member
from controller.status import GroupState, GroupStatus, RankStatus
from liger.domain import ModelCard
from liger.errors import InvalidRequestError
from liger.rpc.model_card import from_card, to_card
from liger.v1 import controller_pb2, types_pb2
from liger.views import DecodeChoice, TaskShare, WindowMix

MAX_WORLD_SIZE = 1024


def to_member(message: controller_pb2.RegisterRequest) -> Member:
    """Return the worker that registers.

    Raises:
        InvalidRequestError: The message breaks its contract.
    """
    for name in ("worker_id", "address", "group", "rendezvous_endpoint"):
        if not getattr(message, name):
            raise InvalidRequestError(f"a worker needs a {name}", field=name)
    world_size = message.tp_size * message.pp_size
    if not 1 <= world_size <= MAX_WORLD_SIZE:
        raise InvalidRequestError(f"tp_size × pp_size must be 1 to {MAX_WORLD_SIZE}", field="tp_size")
    rank = message.rank if message.HasField("rank") else None
    if rank is not None and rank >= world_size:
        raise InvalidRequestError(f"rank {rank} is not below the group's {world_size} ranks", field="rank")
    return Member(
        worker_id=message.worker_id,
        address=message.address,
        group=message.group,
        model=to_card(message.model),
        tp_size=message.tp_size,
        pp_size=message.pp_size,
        rank=rank,
        rendezvous_endpoint=message.rendezvous_endpoint,
        device_id=message.device_id,
        device=message.device,
        version=message.version,
    )


def from_catalogue(entries: Iterable[tuple[ModelCard, int]]) -> controller_pb2.Catalogue:
    """Return the models of the cluster, each with the number of groups that serve it."""
    return controller_pb2.Catalogue(
        entries=[
            controller_pb2.Catalogue.Entry(model=from_card(card), num_groups=num_groups) for card, num_groups in entries
        ]
    )


def from_cluster(
    leader_term: int, groups: Iterable[GroupStatus], gateway_ids: Iterable[str]
) -> controller_pb2.GetClusterResponse:
    """Return the state of the cluster."""
    return controller_pb2.GetClusterResponse(
        leader_term=leader_term,
        groups=[_from_group(group) for group in groups],
        gateway_ids=sorted(gateway_ids),
    )


_STATES = {
    GroupState.WAITING: controller_pb2.GroupStatus.STATE_WAITING,
    GroupState.FORMING: controller_pb2.GroupStatus.STATE_FORMING,
    GroupState.SERVING: controller_pb2.GroupStatus.STATE_SERVING,
    GroupState.DRAINING: controller_pb2.GroupStatus.STATE_DRAINING,
}


def _from_group(group: GroupStatus) -> controller_pb2.GroupStatus:
    return controller_pb2.GroupStatus(
        name=group.name,
        model=group.model,
        state=_STATES[group.state],
        epoch=group.epoch,
        strategy=group.strategy,
        depth=group.depth,
        ranks=[_from_rank(rank) for rank in group.ranks],
        world_size=group.world_size,
        num_waiting=group.num_waiting,
        num_running=group.num_running,
        num_blocks=group.num_blocks,
        num_used_blocks=group.num_used_blocks,
        block_size=group.block_size,
        num_windows=group.num_windows,
        detail=group.detail,
        progress=group.progress,
        num_in_flight=group.num_in_flight,
        prediction_error=group.prediction_error,
        hidden_share=group.hidden_share,
        num_cached_blocks=group.num_cached_blocks,
        prefix_query_tokens=group.prefix_query_tokens,
        prefix_hit_tokens=group.prefix_hit_tokens,
        num_preemptions=group.num_preemptions,
        num_waiting_tokens=group.num_waiting_tokens,
        window_mixes=map(_from_mix, group.window_mixes),
        decode_choice=_from_choice(group.decode_choice) if group.decode_choice else None,
        task_shares=map(_from_share, group.task_shares),
    )


def _from_mix(mix: WindowMix) -> controller_pb2.WindowMix:
    kinds = [types_pb2.BatchKind.ValueType(kind) for kind in mix.batches]
    return controller_pb2.WindowMix(batches=kinds, share=mix.share)


def _from_choice(choice: DecodeChoice) -> controller_pb2.DecodeChoice:
    return controller_pb2.DecodeChoice(
        num_batches=choice.num_batches, merged_ns=round(choice.merged_ns or 0), split_ns=round(choice.split_ns or 0)
    )


def _from_share(share: TaskShare) -> controller_pb2.TaskShare:
    return controller_pb2.TaskShare(
        task=types_pb2.Task.ValueType(share.task),
        weight=share.weight,
        share=share.share,
        num_waiting=share.num_waiting,
    )


def _from_rank(rank: RankStatus) -> controller_pb2.RankStatus:
    return controller_pb2.RankStatus(
        worker_id=rank.worker_id,
        address=rank.address,
        rank=rank.rank,
        device=rank.device,
        weight_bytes=rank.weight_bytes,
        kv_bytes=rank.kv_bytes,
    )
