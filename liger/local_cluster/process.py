"""One service's process: started, known to listen, watched, stopped; what it says goes to its log file."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from liger.errors import ConfigError, LigerError, UnavailableError
from liger.lifecycle import EXIT_CONFIG

_LISTENING: Final = re.compile(rb"^(\w+) listening on (\S+:\d+)\r?$", re.MULTILINE)
_LARGEST_HEAD: Final = 1 << 16  # bytes of output in which the line must stand
_NUM_LAST_LINES: Final = 15
_TAIL_BYTES: Final = 1 << 15


class ServiceProcess:
    """A service as a process of its own session, so that a Ctrl-C meant for us does not reach it.

    Args:
        name: Such as worker-smollm2-0; names the log file too.
        module: What `python -m` runs: gateway, controller or worker.
        flags: Its command line.
        log_folder: Where its output goes, as NAME.log.
        environ: Added to this process's environment.
        prefix: Stands before its command and must become it (exec), so that signals and the death of this process
            reach the service.
    """

    def __init__(
        self,
        name: str,
        module: str,
        flags: Sequence[str],
        *,
        log_folder: Path,
        environ: Mapping[str, str],
        prefix: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.log = log_folder / f"{name.replace('/', '_')}.log"
        child = [sys.executable, "-P", "-m", "liger.local_cluster.child", str(os.getpid()), module, *flags]
        self._command = [*prefix, *child]
        self._environ = {**os.environ, **environ}
        self._transport: asyncio.SubprocessTransport | None = None
        self._output: _Output | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, None before it is started."""
        return self._transport.get_pid() if self._transport else None

    @property
    def exit_code(self) -> int | None:
        """Its exit code (negative for a signal), None while it runs."""
        return self._transport.get_returncode() if self._transport else None

    async def start(self, limit_s: float) -> str:
        """Start it and return the host:port it listens on.

        Raises:
            ConfigError: It refused its configuration.
            UnavailableError: It ended, or does not listen within the limit.
        """
        loop = asyncio.get_running_loop()
        with self.log.open("ab", buffering=0) as log:
            self._transport, self._output = await loop.subprocess_exec(
                lambda: _Output(self.log), *self._command, stdin=subprocess.DEVNULL, stderr=log, env=self._environ,
                start_new_session=True,
            )  # fmt: skip
        output = self._output
        either: list[asyncio.Future[Any]] = [output.listening, output.ended]
        await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if output.listening.done():
            return output.listening.result()
        if output.ended.done():
            raise self.failure()
        raise UnavailableError(f"{self.name} does not listen after {limit_s:g} s; its log is {self.log}")

    @property
    def ending(self) -> str:
        """How it ended, for people."""
        return f"signal {-self.exit_code}" if self.exit_code and self.exit_code < 0 else f"exit code {self.exit_code}"

    async def wait(self) -> int:
        """Wait for its end and return its exit code."""
        if self._output is not None:
            await asyncio.shield(self._output.ended)
        return self.exit_code or 0

    async def stop(self, limit_s: float) -> None:
        """Ask it to drain and stop; after the limit kill it, and whatever it started."""
        if self._transport is not None and self.exit_code is None:
            self._transport.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self.wait()
        await self.kill()

    async def kill(self) -> None:
        """Kill it, and whatever it started, at once."""
        if self._transport is None:
            return
        if self.pid is not None and self.exit_code is None:
            _kill_group(self.pid)
        await self.wait()
        self._transport.close()

    def failure(self) -> LigerError:
        """Return the error that tells why it ended, with its last words."""
        lines = self.last_lines()
        said = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")
        if self.exit_code == EXIT_CONFIG and said:
            return ConfigError(f"{self.name} did not start: {said}")
        if said:
            return UnavailableError(f"{self.name} ended ({self.ending}): {said}")
        tail = "".join(f"\n  {line}" for line in lines)
        return UnavailableError(f"{self.name} ended ({self.ending}); the end of its log {self.log}:{tail}")

    def last_lines(self) -> list[str]:
        """Return the last lines of its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
                return log.read().decode(errors="replace").splitlines()[-_NUM_LAST_LINES:]
        except OSError:
            return []


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class _Output(asyncio.SubprocessProtocol):
    """Copies a process's standard output to its log, and finds the line that says where it listens."""

    def __init__(self, log: Path) -> None:
        self._pid = 0
        loop = asyncio.get_running_loop()
        self.listening: asyncio.Future[str] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._log = log
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.SubprocessTransport):
            self._pid = transport.get_pid() or 0

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:  # noqa: ARG002 - the interface's
        content = data if isinstance(data, bytes) else data.encode()
        with self._log.open("ab") as log:
            log.write(content)
        if not self.listening.done() and len(self._head) < _LARGEST_HEAD:
            self._head += content
            if (found := _LISTENING.search(self._head)) and self._head.find(b"\n", found.start()) >= 0:
                self.listening.set_result(found[2].decode())

    def process_exited(self) -> None:
        if not self.ended.done():
            if self._pid:
                _kill_group(self._pid)  # what it started and left
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the interface's
        self.process_exited()
