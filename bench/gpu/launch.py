"""One process a rank: started together, read as they tell, and all ended when one ends badly, or at the end."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Final

from bench.gpu.words import RECORD
from liger.errors import UnavailableError

_POLL_S: Final = 0.2
_NUM_LAST_LINES: Final = 30

Note = Callable[[str, Mapping[str, Any]], None]
"""Takes a record's kind and row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCommand:
    """What one rank runs."""

    module: str
    arguments: tuple[str, ...]
    environ: Mapping[str, str]


class Ranks:
    """The processes of a run; as a context manager none is left after the block."""

    def __init__(self, commands: Sequence[RankCommand]) -> None:
        self._commands = commands
        self._processes: list[subprocess.Popen[str]] = []
        self._lines: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._last: list[str] = []

    def __enter__(self) -> "Ranks":
        try:
            for rank, command in enumerate(self._commands):
                self._processes.append(_start(command))
                threading.Thread(target=self._read, args=(rank,), daemon=True).start()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [process.pid for process in self._processes]

    def follow(self, note: Note, tell: Callable[[int, str], None], *, until_s: float) -> None:
        """Take what ranks tell until all have ended.

        Args:
            note: Takes records.
            tell: Takes a rank and any other line of it.
            until_s: On `time.time`.

        Raises:
            UnavailableError: A rank ended badly, or the time is over.
        """
        while self._is_running():
            self._drain(note, tell, _POLL_S)
            self._check(until_s)
        self._drain(note, tell, _POLL_S)
        self._check(until_s + 1e9)

    def _is_running(self) -> bool:
        return any(process.poll() is None for process in self._processes)

    def _drain(self, note: Note, tell: Callable[[int, str], None], timeout_s: float) -> None:
        """Take all lines that are there, waiting a moment for the first."""
        with suppress(queue.Empty):
            while True:
                rank, line = self._lines.get(timeout=timeout_s)
                self._take(rank, line, note, tell)

    def _take(self, rank: int, line: str, note: Note, tell: Callable[[int, str], None]) -> None:
        if line.startswith(RECORD):
            with suppress(ValueError, KeyError, TypeError):  # a library's line that begins likewise
                record = json.loads(line[len(RECORD) :])
                note(record["kind"], record["row"])
                return
        self._last = [*self._last, f"[rank {rank}] {line}"][-_NUM_LAST_LINES:]
        tell(rank, line)

    def _check(self, until_s: float) -> None:
        failed = [rank for rank, process in enumerate(self._processes) if process.poll() not in {None, 0}]
        if failed:
            code = self._processes[failed[0]].returncode
            self._collect()
            said = "\n  ".join(self._last)
            raise UnavailableError(f"rank {failed[0]} ended with exit code {code}; the ranks' last words:\n  {said}")
        if time.time() > until_s:
            raise UnavailableError("the time is over; what was measured until now is kept")

    def _collect(self) -> None:
        """Take the last lines of ranks that failed."""
        self._drain(lambda *_: None, lambda *_: None, 1.0)

    def _read(self, rank: int) -> None:
        stream: IO[str] | None = self._processes[rank].stdout
        assert stream is not None, "started with a pipe"
        with stream:
            for line in stream:
                self._lines.put((rank, line.rstrip("\n")))

    def _kill(self) -> None:
        """Kill every rank that still runs, and whatever it started."""
        for process in self._processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()


def _start(command: RankCommand) -> "subprocess.Popen[str]":
    child = [sys.executable, "-m", "liger.local_cluster.child", str(os.getpid()), command.module, *command.arguments]
    return subprocess.Popen(
        child,
        env={**os.environ, **command.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        bufsize=1,
        start_new_session=True,
    )
