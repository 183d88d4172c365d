"""A group's state, as it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from controller.membership.base import Member
from controller.rank_link import Joined
from liger.views import DecodeChoice, TaskShare, WindowMix


class GroupState(Enum):
    """Where a group is in its life."""

    WAITING = auto()  # ranks are missing, or the last epoch failed
    FORMING = auto()  # ranks load weights and find one another
    SERVING = auto()  # requests are served
    DRAINING = auto()  # no new requests; those in flight finish


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStatus:
    """One rank."""

    worker_id: str
    address: str
    rank: int
    device: str
    weight_bytes: int = 0
    kv_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """The ranks that hold one copy of a model."""

    name: str
    model: str
    state: GroupState
    epoch: int
    strategy: str
    depth: int
    ranks: tuple[RankStatus, ...]
    world_size: int
    num_waiting: int = 0
    num_running: int = 0
    num_blocks: int = 0
    num_used_blocks: int = 0
    block_size: int = 0
    num_windows: int = 0
    detail: str = ""
    progress: float = 0.0
    num_in_flight: int = 0  # batches
    prediction_error: float | None = None  # median relative error; None without predictions
    hidden_share: float | None = None  # of the last windows' communication; None if there was none
    num_cached_blocks: int = 0  # held by no sequence, kept for prompts that begin alike
    prefix_query_tokens: int = 0  # of prompts that were looked up in the prefix cache, in this epoch
    prefix_hit_tokens: int = 0  # those of them that were found
    num_preemptions: int = 0  # in this epoch
    num_waiting_tokens: int = 0  # of prompts and inputs
    window_mixes: tuple[WindowMix, ...] = ()  # most frequent first
    decode_choice: DecodeChoice | None = None  # None while nothing decodes
    task_shares: tuple[TaskShare, ...] = ()  # tasks with work in this epoch


def ranks_of(members: Sequence[Member], joined: Sequence[Joined] = ()) -> tuple[RankStatus, ...]:
    """Return members, in rank order, as they are shown; with what each answered if they have joined."""
    return tuple(
        RankStatus(
            worker_id=member.worker_id,
            address=member.address,
            rank=rank,
            device=member.device,
            weight_bytes=joined[rank].weight_bytes if joined else 0,
            kv_bytes=joined[rank].kv_bytes if joined else 0,
        )
        for rank, member in enumerate(members)
    )
