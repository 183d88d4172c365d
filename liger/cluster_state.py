"""Reads the state of a cluster from its controller, as plain values."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
from grpc_status import rpc_status

from liger.domain import BatchKind, Task
from liger.errors import InvalidRequestError, UnavailableError
from liger.rpc.channel import open_channel
from liger.rpc.status import from_rpc_error
from liger.v1 import controller_pb2 as pb
from liger.v1.controller_pb2_grpc import ControllerServiceStub
from liger.views import DecodeChoice, TaskShare, WindowMix

if TYPE_CHECKING:
    from liger.v1.controller_pb2_grpc import ControllerServiceAsyncStub  # exists in the stubs' types alone


class GroupPhase(IntEnum):
    """Where a group is in its life, by the numbers of `liger.v1.GroupStatus.State`."""

    UNKNOWN = 0
    WAITING = 1
    FORMING = 2
    SERVING = 3
    DRAINING = 4


_PHASES: Final = frozenset(map(int, GroupPhase))
_KINDS: Final = frozenset(map(int, BatchKind))
_TASKS: Final = frozenset(map(int, Task))


@dataclass(frozen=True, slots=True, kw_only=True)
class RankState:
    """One rank of a group."""

    worker_id: str
    address: str
    rank: int
    device: str
    weight_bytes: int
    kv_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupState:
    """The ranks that hold one copy of a model."""

    name: str
    model: str
    phase: GroupPhase
    epoch: int
    strategy: str
    depth: int  # largest number of batches that may be in flight now
    ranks: tuple[RankState, ...]
    world_size: int
    num_waiting: int  # requests
    num_running: int  # sequences
    num_blocks: int
    num_used_blocks: int
    block_size: int  # tokens
    detail: str
    progress: float  # share of forming that is done, 0 to 1
    num_in_flight: int  # batches
    prediction_error: float | None  # median relative error of the last windows' durations; None without predictions
    hidden_share: float | None  # of the last windows' communication, that compute covered; None if there was none
    num_cached_blocks: int  # held by no sequence, kept for prompts that begin alike
    prefix_query_tokens: int  # of prompts that were looked up in the prefix cache, in this epoch
    prefix_hit_tokens: int  # those of them that were found, and not computed again
    num_preemptions: int  # sequences that gave their blocks back to be computed again, in this epoch
    num_waiting_tokens: int  # of prompts and inputs
    window_mixes: tuple[WindowMix, ...]  # most frequent first
    decode_choice: DecodeChoice | None  # None while nothing decodes
    task_shares: tuple[TaskShare, ...]  # tasks with work in this epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """What a controller knows."""

    leader_term: int
    groups: tuple[GroupState, ...]  # by name
    gateway_ids: tuple[str, ...]


async def read_cluster(channel: grpc.aio.Channel, timeout_s: float) -> ClusterState:
    """Ask the controller behind a channel.

    Raises:
        LigerError: What the controller answered, or UnavailableError if it did not.
    """
    try:
        return await _read(ControllerServiceStub(channel), timeout_s)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


@asynccontextmanager
async def calling(controller: str) -> "AsyncIterator[ControllerServiceAsyncStub]":
    """Open the controller at host:port, to be called while the context lasts.

    Raises:
        LigerError: What the controller answered, or UnavailableError if none answers there.
    """
    async with open_channel(controller) as channel:
        try:
            yield ControllerServiceStub(channel)
        except grpc.aio.AioRpcError as error:
            is_absent = error.code() is grpc.StatusCode.UNAVAILABLE and rpc_status.from_call(error) is None
            raise (_no_controller(controller) if is_absent else from_rpc_error(error)) from error


async def _read(stub: "ControllerServiceAsyncStub", timeout_s: float) -> ClusterState:
    reply = await stub.GetCluster(pb.GetClusterRequest(), timeout=timeout_s)
    groups = tuple(_group(group) for group in reply.groups)
    return ClusterState(leader_term=reply.leader_term, groups=groups, gateway_ids=tuple(reply.gateway_ids))


async def fetch_cluster(controller: str, timeout_s: float = 10.0) -> ClusterState:
    """Ask the controller at host:port.

    Raises:
        UnavailableError: None answers there.
    """
    async with calling(controller) as stub:
        return await _read(stub, timeout_s)


async def drain(controller: str, group: str, timeout_s: float) -> tuple[int, int]:
    """Have a group (empty: all) refuse new work and finish what is in flight.

    Returns:
        Requests that were finished, and requests that were given up.

    Raises:
        UnavailableError: No controller answers there.
    """
    if not 0 <= timeout_s < float("inf"):
        raise InvalidRequestError("the timeout must be a number of seconds, at least 0", field="timeout_s")
    request = pb.DrainRequest(group=group, timeout_s=timeout_s)
    async with calling(controller) as stub:
        reply = await stub.Drain(request, timeout=timeout_s + 10.0)
    return reply.num_finished, reply.num_abandoned


def _no_controller(address: str) -> UnavailableError:
    return UnavailableError(f"no controller answers at {address}; is a cluster up, and is the address right?")


def _group(group: pb.GroupStatus) -> GroupState:
    ranks = tuple(
        RankState(
            worker_id=rank.worker_id,
            address=rank.address,
            rank=rank.rank,
            device=rank.device,
            weight_bytes=rank.weight_bytes,
            kv_bytes=rank.kv_bytes,
        )
        for rank in group.ranks
    )
    number = int(group.state)
    return GroupState(
        name=group.name,
        model=group.model,
        phase=GroupPhase(number) if number in _PHASES else GroupPhase.UNKNOWN,
        epoch=group.epoch,
        strategy=group.strategy,
        depth=group.depth,
        ranks=ranks,
        world_size=group.world_size,
        num_waiting=group.num_waiting,
        num_running=group.num_running,
        num_blocks=group.num_blocks,
        num_used_blocks=group.num_used_blocks,
        block_size=group.block_size,
        detail=group.detail,
        progress=group.progress,
        num_in_flight=group.num_in_flight,
        prediction_error=group.prediction_error if group.HasField("prediction_error") else None,
        hidden_share=group.hidden_share if group.HasField("hidden_share") else None,
        num_cached_blocks=group.num_cached_blocks,
        prefix_query_tokens=group.prefix_query_tokens,
        prefix_hit_tokens=group.prefix_hit_tokens,
        num_preemptions=group.num_preemptions,
        num_waiting_tokens=group.num_waiting_tokens,
        window_mixes=tuple(_mixes(group.window_mixes)),
        decode_choice=_choice(group.decode_choice) if group.HasField("decode_choice") else None,
        task_shares=tuple(_shares(group.task_shares)),
    )


def _mixes(messages: Iterable[pb.WindowMix]) -> Iterator[WindowMix]:
    """Yield the mixes whose batches are all known here."""
    for message in messages:
        if _KINDS.issuperset(message.batches):
            yield WindowMix(batches=tuple(map(BatchKind, message.batches)), share=message.share)


def _choice(message: pb.DecodeChoice) -> DecodeChoice:
    return DecodeChoice(
        num_batches=message.num_batches, merged_ns=message.merged_ns or None, split_ns=message.split_ns or None
    )


def _shares(messages: Iterable[pb.TaskShare]) -> Iterator[TaskShare]:
    """Yield the shares of the tasks that are known here."""
    for message in messages:
        if message.task in _TASKS:
            yield TaskShare(
                task=Task(message.task), weight=message.weight, share=message.share, num_waiting=message.num_waiting
            )
