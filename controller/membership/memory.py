"""Membership kept by the one controller itself, when no etcd is configured."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from controller.membership.base import Lease, Member
from liger.errors import UnavailableError

_LOG: Final = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Held:
    member: Member
    expires_s: float


class MemoryMembership:
    """Leases in a dictionary. Implements `Membership`.

    Args:
        ttl_s: How long a lease lives after its last renewal.
        clock: Monotonic seconds.
        leader_term: Larger than that of any controller before, whose epochs the workers may still know.
    """

    def __init__(self, *, ttl_s: float, clock: Callable[[], float], leader_term: int = 1) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._leader_term = leader_term
        self._held: dict[int, _Held] = {}
        self._epochs: dict[str, int] = {}
        self._ids = count(1)
        self._version = 0
        self._changed = asyncio.Condition()

    @property
    def leader_term(self) -> int:
        """One controller leads for its whole life."""
        return self._leader_term

    @property
    def version(self) -> int:
        """Grows with every change of members."""
        return self._version

    async def register(self, member: Member) -> Lease:
        """Grant a lease."""
        for lease_id in self._leases_of(member.worker_id):
            del self._held[lease_id]
        lease_id = next(self._ids)
        self._held[lease_id] = _Held(member=member, expires_s=self._clock() + self._ttl_s)
        _LOG.info("worker registered", extra=_words(member))
        await self._tell()
        return Lease(lease_id=lease_id, ttl_s=self._ttl_s)

    async def renew(self, lease_id: int) -> float:
        """Keep a lease alive."""
        await self.expire()
        if lease_id not in self._held:
            raise UnavailableError("the lease is over; register again")
        self._held[lease_id].expires_s = self._clock() + self._ttl_s
        return self._ttl_s

    async def revoke(self, lease_id: int) -> None:
        """End a lease."""
        held = self._held.pop(lease_id, None)
        if held is not None:
            _LOG.info("worker left", extra=_words(held.member))
            await self._tell()

    async def evict(self, worker_id: str) -> None:
        """End the lease of a worker that was found dead."""
        for lease_id in self._leases_of(worker_id):
            await self.revoke(lease_id)

    async def next_epoch(self, group: str) -> int:
        """Begin the group's next epoch."""
        self._epochs[group] = self._epochs.get(group, 0) + 1
        return self._epochs[group]

    def members(self) -> Sequence[Member]:
        """Return all members, oldest first."""
        return tuple(held.member for held in self._held.values())

    async def changed(self, version: int) -> int:
        """Wait until members differ from those at `version`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._version != version)
        return self._version

    async def expire(self) -> None:
        """End the leases that were not renewed in time."""
        now_s = self._clock()
        over = [lease_id for lease_id, held in self._held.items() if held.expires_s <= now_s]
        for lease_id in over:
            _LOG.warning("a lease expired", extra=_words(self._held.pop(lease_id).member))
        if over:
            await self._tell()

    async def sweep(self) -> None:
        """Expire leases for as long as the controller runs."""
        while True:
            await asyncio.sleep(self._ttl_s / 4)
            await self.expire()

    def _leases_of(self, worker_id: str) -> list[int]:
        return [lease_id for lease_id, held in self._held.items() if held.member.worker_id == worker_id]

    async def _tell(self) -> None:
        self._version += 1
        async with self._changed:
            self._changed.notify_all()


def _words(member: Member) -> dict[str, str]:
    return {"worker_id": member.worker_id, "group": member.group, "address": member.address}
