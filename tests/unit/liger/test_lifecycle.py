import asyncio
import os
import signal

import pytest

from liger.errors import ConfigError, UnavailableError
from liger.lifecycle import EXIT_CONFIG, EXIT_FAILED, first_of, run_main, run_service


class FakeService:
    """Notes what is done to it; drains when `may_drain` is set."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.started = asyncio.Event()
        self.draining = asyncio.Event()
        self.ended = asyncio.Event()
        self.may_drain = asyncio.Event()
        self.failure: Exception | None = None

    async def start(self) -> None:
        self.done.append("start")
        if self.failure:
            raise self.failure
        self.started.set()

    async def wait(self) -> None:
        await self.ended.wait()

    async def drain(self) -> None:
        self.done.append("drain")
        self.draining.set()
        await self.may_drain.wait()
        self.done.append("drained")

    async def stop(self) -> None:
        self.done.append("stop")


@pytest.fixture
async def service() -> FakeService:
    return FakeService()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_then_stops(service, number):
    running = asyncio.ensure_future(run_service(service, stop_limit_s=60))
    await service.started.wait()

    os.kill(os.getpid(), number)
    await service.draining.wait()
    service.may_drain.set()
    await running

    assert service.done == ["start", "drain", "drained", "stop"]


async def test_a_second_signal_ends_the_drain(service):
    running = asyncio.ensure_future(run_service(service, stop_limit_s=60))
    await service.started.wait()

    os.kill(os.getpid(), signal.SIGTERM)
    await service.draining.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await running

    assert service.done == ["start", "drain", "stop"]


async def test_a_drain_has_a_limit(service):
    running = asyncio.ensure_future(run_service(service, stop_limit_s=0.01))
    await service.started.wait()

    os.kill(os.getpid(), signal.SIGTERM)
    await running

    assert service.done == ["start", "drain", "stop"]


async def test_a_service_that_ends_by_itself_is_stopped_without_a_drain(service):
    service.ended.set()
    await run_service(service, stop_limit_s=60)
    assert service.done == ["start", "stop"]


async def test_a_failed_start_is_stopped_and_told(service):
    service.failure = UnavailableError("no luck")
    with pytest.raises(UnavailableError, match="no luck"):
        await run_service(service, stop_limit_s=60)
    assert service.done == ["start", "stop"]


async def test_first_of_raises_what_the_first_raises_and_cancels_the_others():
    cancelled = asyncio.Event()

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def fail() -> None:
        raise UnavailableError("gone")

    with pytest.raises(UnavailableError, match="gone"):
        await first_of(wait_for_ever(), fail())
    assert cancelled.is_set()


@pytest.mark.parametrize(
    ("error", "code"), [(None, 0), (ConfigError("bad flag"), EXIT_CONFIG), (UnavailableError("no luck"), EXIT_FAILED)]
)
def test_a_processs_exit_code_tells_what_kind_of_failure_it_was(error, code, capsys):
    async def main() -> None:
        if error:
            raise error

    assert run_main(main) == code
    assert capsys.readouterr().err == (f"error: {error.message}\n" if error else "")
