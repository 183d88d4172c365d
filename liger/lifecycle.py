"""Runs a service's process: config errors to exit codes, signals to a bounded, staged stop."""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from liger.errors import ConfigError, LigerError

_LOG: Final = logging.getLogger(__name__)

EXIT_CONFIG: Final = 2
EXIT_FAILED: Final = 1


class Service(Protocol):
    """What `run_service` starts, watches and stops."""

    async def start(self) -> None:
        """Begin to serve; return when calls can be answered."""

    async def wait(self) -> None:
        """Return (or raise) when the service can go on no longer by itself."""

    async def drain(self) -> None:
        """Say NOT_SERVING, refuse new work, finish what is in flight within the service's own limit."""

    async def stop(self) -> None:
        """Let go of everything. Called after `drain`, and also after a failed `start`."""


def run_main(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a service's main coroutine and return the process's exit code; errors are one line, not a traceback."""
    try:
        asyncio.run(main())
    except ConfigError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201 - before logs are set up
        return EXIT_CONFIG
    except LigerError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    return 0


async def run_service(service: Service, *, stop_limit_s: float) -> None:
    """Start a service, wait for SIGTERM, SIGINT or its own end, then drain and stop it.

    Args:
        service: What to run.
        stop_limit_s: Longest time that `drain` may take; a second signal ends it at once.
    """
    asked = asyncio.Event()
    again = asyncio.Event()

    def on_signal() -> None:
        (again if asked.is_set() else asked).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await service.start()
        await first_of(service.wait(), asked.wait())
        if asked.is_set():
            _LOG.info("draining; a second signal stops at once")
            async with asyncio.timeout(stop_limit_s):
                await first_of(service.drain(), again.wait())
    except TimeoutError:
        _LOG.warning("the drain's limit is over", extra={"limit_s": stop_limit_s})
    finally:
        await service.stop()


async def first_of(*waits: Awaitable[object]) -> None:
    """Return when the first of several waits returns, raise what it raises, cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
