"""Checks of constraints beside the other work of a gateway."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.constraints import MOST_AT_ONCE, ConstraintChecker
from liger.domain import Constraint, ConstraintKind
from liger.errors import InvalidRequestError


def regex(text: str) -> Constraint:
    return Constraint(kind=ConstraintKind.REGEX, text=text)


@pytest_asyncio.fixture
async def checker() -> AsyncIterator[ConstraintChecker]:
    made = ConstraintChecker()
    yield made
    made.close()


async def test_a_constraint_is_passed_on_or_refused(checker: ConstraintChecker) -> None:
    assert await checker.checked(regex("a+")) == regex("a+")
    with pytest.raises(InvalidRequestError):
        await checker.checked(regex("a("))


async def test_cancelled_checks_leave_the_usual_threads_free(
    checker: ConstraintChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    begun: list[str] = []

    def check(_message: object) -> None:
        begun.append(threading.current_thread().name)
        go_on.wait(60)

    monkeypatch.setattr("gateway.constraints.to_constraint", check)
    try:
        for _ in range(64):
            task = asyncio.create_task(checker.checked(regex("a")))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        assert await asyncio.to_thread(len, begun) <= MOST_AT_ONCE
        assert all(name.startswith("constraints") for name in begun)
    finally:
        go_on.set()


async def test_what_waits_when_it_is_closed_is_never_begun(
    checker: ConstraintChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr("gateway.constraints.to_constraint", lambda _message: go_on.wait(60))
    try:
        tasks = [asyncio.create_task(checker.checked(regex("a"))) for _ in range(MOST_AT_ONCE + 1)]
        await asyncio.sleep(0)
        checker.close()
    finally:
        go_on.set()

    *begun, waiting = await asyncio.gather(*tasks, return_exceptions=True)
    assert begun == [True] * MOST_AT_ONCE
    assert isinstance(waiting, asyncio.CancelledError)
