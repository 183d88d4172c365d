"""Starts a cluster's processes, watches them, and stops them in order."""

import asyncio
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from liger.client import AsyncClient
from liger.cluster_state import ClusterState, GroupPhase, read_cluster
from liger.errors import LigerError, UnavailableError
from liger.lifecycle import first_of
from liger.local_cluster.process import ServiceProcess
from liger.local_cluster.spec import ClusterSpec
from liger.models.store import liger_home
from liger.rpc.channel import open_channel

_POLL_S: Final = 0.1
_WORKERS: Final = 1  # their place among the stages
_MAX_FAILED_EPOCHS: Final = 3  # at the start; what fails so often does not mend itself
_MAX_LOG_FOLDERS: Final = 20  # under LIGER_HOME/logs
_MAX_RESTARTS: Final = 3  # of one worker, in the cluster's life
_KILL_MARGIN_S: Final = 5.0  # beyond its own drain limit, before a service is killed


class LocalCluster:
    """A cluster on this machine; as a context manager it serves inside the block and is gone after it.

    Args:
        spec: What to run.
        on_state: Told the cluster's state whenever it changed while groups form.
    """

    def __init__(self, spec: ClusterSpec, on_state: Callable[[ClusterState], None] | None = None) -> None:
        self.spec = spec
        self.gateway = ""  # host:port, once started
        self.controller = ""
        self.log_folder = spec.log_folder or liger_home() / "logs" / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
        self._tell = on_state or _tell_nobody
        self._stages: list[list[ServiceProcess]] = []  # in the order in which they are stopped

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def processes(self) -> Mapping[str, ServiceProcess]:
        """All processes by name: controller, gateway, worker-GROUP-RANK."""
        return {process.name: process for stage in self._stages for process in stage}

    async def start(self) -> None:
        """Start every process and wait until every group serves; on failure stop what was started.

        Raises:
            ConfigError: A service refused its configuration.
            UnavailableError: A process ended, or the start limit is over.
        """
        try:
            async with asyncio.timeout(self.spec.start_limit_s):
                await self._start_processes()
                await first_of(self._wait_until_serving(), self.wait())
        except TimeoutError as error:
            await self.kill()
            raise UnavailableError(
                f"the cluster does not serve after {self.spec.start_limit_s:g} s; its logs are in {self.log_folder}"
            ) from error
        except BaseException:  # nothing is in flight yet that a drain could save
            await self.kill()
            raise

    async def wait(self) -> None:
        """Wait until a process ends by itself.

        Raises:
            LigerError: It did; with its last words.
        """
        processes = list(self.processes.values())
        await first_of(*(process.wait() for process in processes))
        raise next(process for process in processes if process.exit_code is not None).failure()

    async def supervise(self, on_event: Callable[[str], None]) -> None:
        """Start workers that end by themselves again, each a few times; their group forms anew.

        Args:
            on_event: Told what happened, for people.

        Raises:
            LigerError: Another service ended, or a worker too often; with its last words.
        """
        restarts = dict.fromkeys(self.processes, 0)
        while True:
            await first_of(*(process.wait() for process in self.processes.values()))
            ended = next(process for process in self.processes.values() if process.exit_code is not None)
            if ended not in self._stages[_WORKERS] or restarts[ended.name] == _MAX_RESTARTS:
                raise ended.failure()
            restarts[ended.name] += 1
            on_event(f"{ended.name} ended ({ended.ending}) and is started again; its group then forms anew")
            await ended.start(self.spec.start_limit_s)
            on_event(f"{ended.name} is back")

    async def stop(self) -> None:
        """Stop the gateway, then the workers, then the controller; each drains within its limit, then is killed."""
        limit_s = self.spec.drain_limit_s + _KILL_MARGIN_S
        try:
            for stage in self._stages:
                await asyncio.gather(*(process.stop(limit_s) for process in stage))
        finally:
            await self.kill()

    async def kill(self) -> None:
        """Kill every process that still runs, at once."""
        await asyncio.gather(*(process.kill() for process in self.processes.values()))

    async def _start_processes(self) -> None:
        self.log_folder.mkdir(parents=True, exist_ok=True)
        if self.spec.log_folder is None:
            _prune(self.log_folder.parent)
        controller = self._process("controller", "controller", self.spec.controller_flags())
        self._stages = [[controller]]
        self.controller = await controller.start(self.spec.start_limit_s)
        gateway = self._process("gateway", "gateway", self.spec.gateway_flags(self.controller))
        threads = {"OMP_NUM_THREADS": str(self.spec.threads())}
        commands = self.spec.workers(self.controller)
        workers = [self._process(each.name, "worker", each.flags, threads, each.prefix) for each in commands]
        self._stages = [[gateway], workers, [controller]]  # workers at _WORKERS
        self.gateway, *_ = await _all_or_first_error([gateway, *workers], self.spec.start_limit_s)

    def _process(
        self,
        name: str,
        module: str,
        flags: Sequence[str],
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> ServiceProcess:
        own = {**(environ or {}), **self.spec.environ}
        return ServiceProcess(name, module, flags, log_folder=self.log_folder, environ=own, prefix=prefix)

    async def _wait_until_serving(self) -> None:
        """Wait until every group serves and the gateway knows it."""
        async with open_channel(self.controller) as channel:
            state = await read_cluster(channel, self.spec.start_limit_s)
            self._tell(state)
            while not self._serves(state):
                self._give_up_if_hopeless(state)
                await asyncio.sleep(_POLL_S)
                state, before = await read_cluster(channel, self.spec.start_limit_s), state
                if state != before:
                    self._tell(state)
        async with AsyncClient(self.gateway) as client:
            offered = await self._is_offered(client)
            while not offered:
                await asyncio.sleep(_POLL_S)
                offered = await self._is_offered(client)

    def _give_up_if_hopeless(self, state: ClusterState) -> None:
        for group in state.groups:
            if group.phase is GroupPhase.WAITING and group.epoch >= _MAX_FAILED_EPOCHS:
                raise UnavailableError(
                    f"group {group.name} cannot form ({group.detail}); its logs are in {self.log_folder}"
                )

    def _serves(self, state: ClusterState) -> bool:
        serving = {group.name for group in state.groups if group.phase is GroupPhase.SERVING}
        return serving.issuperset(self.spec.group_names())

    async def _is_offered(self, client: AsyncClient) -> bool:
        try:
            offered = {model.name: model.num_groups for model in await client.list_models()}
        except UnavailableError:  # it has not reached the controller yet
            return False
        return all(offered.get(spec.model_name, 0) >= spec.copies for spec in self.spec.groups)


def _prune(logs: Path) -> None:
    """Keep the newest log folders."""
    for old in sorted(logs.iterdir())[:-_MAX_LOG_FOLDERS]:
        shutil.rmtree(old, ignore_errors=True)


def _tell_nobody(_state: ClusterState) -> None:
    """Tell nothing."""


async def _all_or_first_error(processes: Sequence[ServiceProcess], limit_s: float) -> list[str]:
    """Start processes side by side and return where they listen; raise the first one's error."""
    try:
        async with asyncio.TaskGroup() as tasks:
            starts = [tasks.create_task(process.start(limit_s)) for process in processes]
    except* LigerError as failures:
        raise next(_leaves(failures)) from None
    return [start.result() for start in starts]


def _leaves(group: BaseExceptionGroup[LigerError]) -> Iterator[LigerError]:
    for error in group.exceptions:
        if isinstance(error, LigerError):
            yield error
        else:
            yield from _leaves(error)
