import asyncio

import pytest

from controller.membership.base import Member
from controller.membership.memory import MemoryMembership
from liger.errors import UnavailableError
from tests.support.in_process import CARD


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def membership(clock):
    return MemoryMembership(ttl_s=10.0, clock=clock)


def member(worker_id="w", group="g"):
    return Member(
        worker_id=worker_id,
        address="127.0.0.1:1",
        group=group,
        model=CARD,
        tp_size=1,
        pp_size=1,
        rank=None,
        rendezvous_endpoint="127.0.0.1:2",
        device_id="",
        device="cpu",
        version="1",
    )


def ids(membership):
    return [each.worker_id for each in membership.members()]


async def test_a_renewed_lease_lives_on(membership, clock):
    lease = await membership.register(member())
    for _ in range(5):
        clock.now_s += 9.0
        assert await membership.renew(lease.lease_id) == 10.0
    assert ids(membership) == ["w"]


async def test_an_expired_lease_ends_membership_and_cannot_be_renewed(membership, clock):
    lease = await membership.register(member())
    clock.now_s += 10.0
    with pytest.raises(UnavailableError, match="register again"):
        await membership.renew(lease.lease_id)
    assert ids(membership) == []


async def test_a_revoked_lease_ends_membership_at_once_and_twice_is_fine(membership):
    lease = await membership.register(member())
    await membership.revoke(lease.lease_id)
    await membership.revoke(lease.lease_id)
    assert ids(membership) == []


async def test_a_worker_that_registers_again_is_one_member_with_a_new_lease(membership):
    first = await membership.register(member())
    second = await membership.register(member())
    assert first.lease_id != second.lease_id
    assert ids(membership) == ["w"]
    with pytest.raises(UnavailableError):
        await membership.renew(first.lease_id)


async def test_an_evicted_worker_is_no_member(membership):
    await membership.register(member("dead"))
    await membership.register(member("alive"))
    await membership.evict("dead")
    assert ids(membership) == ["alive"]


async def test_whoever_waits_for_changes_is_told_of_joining_leaving_and_expiry(membership, clock):
    version = membership.version
    for change in ("register", "revoke", "register", "expire"):
        waiting = asyncio.create_task(membership.changed(version))
        await asyncio.sleep(0)
        assert not waiting.done()
        if change == "register":
            lease = await membership.register(member())
        elif change == "revoke":
            await membership.revoke(lease.lease_id)
        else:
            clock.now_s += 60.0
            await membership.expire()
        async with asyncio.timeout(5):
            newer = await waiting
        assert newer > version
        version = newer


async def test_epochs_grow_by_one_for_each_group(membership):
    assert [await membership.next_epoch("a") for _ in range(3)] == [1, 2, 3]
    assert await membership.next_epoch("b") == 1
