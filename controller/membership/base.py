"""What the controller asks of membership, however it is kept (in memory here; in etcd for several controllers)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from liger.domain import ModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A worker that holds a lease."""

    worker_id: str  # new for every process
    address: str  # where its WorkerService listens
    group: str
    model: ModelCard
    tp_size: int
    pp_size: int
    rank: int | None  # the place it asks for; None takes any
    rendezvous_endpoint: str  # where ranks find one another if it becomes rank 0
    device_id: str  # unique for GPUs; empty for CPU ranks
    device: str  # for people
    version: str

    @property
    def world_size(self) -> int:
        """Ranks that its group needs."""
        return self.tp_size * self.pp_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A member's right to take part, until it is not renewed for `ttl_s`."""

    lease_id: int
    ttl_s: float


class Membership(Protocol):
    """Members under leases, epochs by group, and the term under which this controller leads."""

    @property
    def leader_term(self) -> int:
        """The term under which this controller leads."""

    @property
    def version(self) -> int:
        """Grows with every change of members."""

    async def register(self, member: Member) -> Lease:
        """Grant a lease; a worker id that is registered already gets a new one and loses the old."""

    async def renew(self, lease_id: int) -> float:
        """Keep a lease alive; return its time to live in seconds.

        Raises:
            UnavailableError: The lease is over; register again.
        """

    async def revoke(self, lease_id: int) -> None:
        """End a lease; one that is over already is fine."""

    async def evict(self, worker_id: str) -> None:
        """End the lease of a worker that was found dead."""

    async def next_epoch(self, group: str) -> int:
        """Begin the group's next epoch and return its number, from 1."""

    def members(self) -> Sequence[Member]:
        """Return all members, oldest first."""

    async def changed(self, version: int) -> int:
        """Wait until members differ from those at `version`; return the version now."""
