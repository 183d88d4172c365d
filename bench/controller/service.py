"""The real thing: controller and workers as processes with real gRPC, the controller alone on one core."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.controller.gateway import BenchGateway
from bench.controller.made_up import Client, Load, blocks_for
from liger.errors import LigerError, UnavailableError
from liger.local_cluster.process import ServiceProcess

_START_LIMIT_S: Final = 60.0

_BUSY: Final = 0.9  # of its core's time: then a process sets the pace
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFigures:
    """What the service did, as its gateway saw it."""

    seconds: float
    tokens_per_s: float
    num_finished: int  # requests
    messages_per_step: float  # from the controller to the gateway
    loop_ms: float  # CPU time of the controller's loop, on its main thread, for each decode step
    controller_ms: float  # the same of the whole process: with gRPC's threads and the search for cold windows
    controller_share: float  # of its core's time
    others_share: float  # of the other cores' time: workers and gateway
    num_other_cores: int  # 0 where there is one core, which all share

    @property
    def bottleneck(self) -> str:
        """What set the pace."""
        if self.num_other_cores == 0:
            return "the one core that all share"
        if self.controller_share >= _BUSY:
            return "the controller's core"
        return "the cores of workers and gateway" if self.others_share >= _BUSY else "no core alone"


@dataclass(frozen=True, slots=True)
class _Count:
    """Where a run stands."""

    at_s: float
    tokens: int
    messages: int
    finished: int
    loop_s: float  # CPU time so far, of the controller's main thread
    controller_s: float  # of all its threads
    others_s: float


@dataclass(frozen=True, slots=True)
class _Run:
    """What runs."""

    gateway: BenchGateway
    controller: ServiceProcess
    workers: Sequence[ServiceProcess]

    def count(self) -> _Count:
        """Return where it stands now."""
        return _Count(
            at_s=time.monotonic(),
            tokens=self.gateway.client.num_tokens,
            messages=self.gateway.client.num_messages,
            finished=self.gateway.client.num_finished,
            loop_s=_cpu_s(f"{self.controller.pid}/task/{self.controller.pid}"),
            controller_s=_cpu_s(f"{self.controller.pid}"),
            others_s=sum(_cpu_s(f"{worker.pid}") for worker in self.workers) + time.process_time(),
        )


async def measure_service(
    strategy: str, load: Load, num_ranks: int, seconds: float, controller_core: int
) -> ServiceFigures:
    """Start everything, keep so many generations under way, count, stop everything.

    Args:
        strategy: The controller's.
        load: What the gateway, which is this process, submits.
        num_ranks: Workers, on this process's cores.
        seconds: How long to count, after as long to warm up.
        controller_core: The core on which the controller runs.

    Raises:
        LigerError: A process ended, or a request failed; the processes' logs are kept then.
    """
    logs = Path(tempfile.mkdtemp(prefix="liger-bench-controller-"))
    keep_logs = False
    try:
        async with _running(strategy, load, num_ranks, logs, controller_core) as run:
            begin, end = await _count_twice(run, seconds)
    except LigerError as error:
        keep_logs = True
        raise UnavailableError(f"{error.message}; the logs are in {logs}") from error
    finally:
        if not keep_logs:
            shutil.rmtree(logs)
    num_other_cores = len(os.sched_getaffinity(0) - {controller_core})
    return _figures(begin, end, load.num_sequences, num_other_cores)


@asynccontextmanager
async def _running(strategy: str, load: Load, num_ranks: int, logs: Path, controller_core: int) -> AsyncIterator[_Run]:
    bounds = ["--max-sequences", str(load.num_sequences), "--max-requests", str(2 * load.num_sequences)]
    flags = ["--listen", "127.0.0.1:0", "--strategy", strategy, *bounds, "--drain-limit-s", "1"]
    async with AsyncExitStack() as stack:
        controller = ServiceProcess("controller", "controller", flags, log_folder=logs, environ={})
        stack.push_async_callback(controller.kill)
        with _pinned(controller_core):
            address = await controller.start(_START_LIMIT_S)
        flags = ["--controller", address, "--ranks", str(num_ranks), "--blocks", str(blocks_for(load.num_sequences))]
        workers = []
        for rank in range(num_ranks):
            worker = ServiceProcess(f"worker-{rank}", "bench.controller.worker", flags, log_folder=logs, environ={})
            stack.push_async_callback(worker.kill)
            await worker.start(_START_LIMIT_S)
            workers.append(worker)
        yield _Run(BenchGateway(address, Client(load)), controller, workers)


@contextmanager
def _pinned(core: int) -> Iterator[None]:
    """Start processes on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def _count_twice(run: _Run, seconds: float) -> tuple[_Count, _Count]:
    """Count at begin and end of so many seconds, unless something ends before."""
    counting = asyncio.create_task(_count_later(run, seconds))
    using = asyncio.create_task(run.gateway.run())
    ends = [asyncio.create_task(_raise_at_end(process)) for process in (run.controller, *run.workers)]
    tasks = [counting, using, *ends]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {counting}:
            task.result()
        return counting.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _count_later(run: _Run, seconds: float) -> tuple[_Count, _Count]:
    try:
        async with asyncio.timeout(_START_LIMIT_S):
            await run.gateway.wait_until_served()
    except TimeoutError:
        raise UnavailableError(f"the controller serves nothing after {_START_LIMIT_S:.0f} s") from None
    await asyncio.sleep(seconds)  # plans are searched for, caches fill
    begin = run.count()
    await asyncio.sleep(seconds)
    return begin, run.count()


async def _raise_at_end(process: ServiceProcess) -> None:
    await process.wait()
    raise process.failure()


def _cpu_s(place: str) -> float:
    """Return the CPU time of a process or thread, by its place under /proc."""
    fields = Path("/proc", place, "stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S  # utime, stime


def _figures(begin: _Count, end: _Count, num_sequences: int, num_other_cores: int) -> ServiceFigures:
    seconds = end.at_s - begin.at_s
    num_tokens = end.tokens - begin.tokens
    if num_tokens == 0:
        raise UnavailableError("no token came while it was measured; give it more --seconds")
    num_steps = num_tokens / num_sequences
    controller_s = end.controller_s - begin.controller_s
    return ServiceFigures(
        seconds=seconds,
        tokens_per_s=num_tokens / seconds,
        num_finished=end.finished - begin.finished,
        messages_per_step=(end.messages - begin.messages) / num_steps,
        loop_ms=(end.loop_s - begin.loop_s) * 1e3 / num_steps,
        controller_ms=controller_s * 1e3 / num_steps,
        controller_share=controller_s / seconds,
        others_share=(end.others_s - begin.others_s) / seconds / max(num_other_cores, 1),
        num_other_cores=num_other_cores,
    )
