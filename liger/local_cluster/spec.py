"""Says what a local cluster is made of, and which command lines that means."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from liger.errors import ConfigError

_ANY_GPU: Final = "cuda"  # what a worker's --device says for whichever there is


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSpec:
    """What one rank has for itself."""

    prefix: tuple[str, ...] = ()  # of its command, such as ip netns exec NAME; it must become the command (exec)
    options: Mapping[str, str] = field(default_factory=dict)  # worker flags without their dashes, over the group's


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCommand:
    """One worker's process."""

    name: str
    prefix: tuple[str, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """Copies of one model, each held by a group of ranks."""

    model_folder: Path
    model_name: str
    tp_size: int = 1  # ranks that share each layer
    pp_size: int = 1  # stages that share the layers
    copies: int = 1
    options: Mapping[str, str] = field(default_factory=dict)  # worker flags without dashes; empty values for switches
    ranks: tuple[RankSpec, ...] = ()  # in rank order, the same for every copy; empty gives none anything of its own

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            ConfigError: One is below 1, or `ranks` are not as many as the group's ranks.
        """
        if self.tp_size < 1 or self.pp_size < 1 or self.copies < 1:
            raise ConfigError(f"{self.model_name} needs at least one worker and one copy")
        if self.ranks and len(self.ranks) != self.world_size:
            raise ConfigError(f"{self.model_name} has {self.world_size} ranks, but {len(self.ranks)} are described")

    @property
    def world_size(self) -> int:
        """Ranks that hold one copy."""
        return self.tp_size * self.pp_size

    def group_names(self) -> list[str]:
        """Return the groups' names: the model's own for a single copy, numbered for several."""
        if self.copies == 1:
            return [self.model_name]
        return [f"{self.model_name}-{number}" for number in range(1, self.copies + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A cluster of one gateway, one controller and the workers of some groups."""

    groups: tuple[GroupSpec, ...]
    gateway_listen: str = "127.0.0.1:0"  # port 0 takes a free one
    controller_listen: str = "127.0.0.1:0"
    gateway_options: Mapping[str, str] = field(default_factory=dict)  # flags without their dashes
    controller_options: Mapping[str, str] = field(default_factory=dict)
    num_gpus: int = 0  # shared out in turn among the workers whose device is cuda; 0 leaves the choice to them
    threads_per_worker: int | None = None  # None shares this machine's cores among the workers
    log_folder: Path | None = None  # None makes a new one under LIGER_HOME/logs
    environ: Mapping[str, str] = field(default_factory=dict)  # added to every service's environment
    start_limit_s: float = 900.0  # longest time until every group serves
    drain_limit_s: float = 30.0  # longest time that each service may take to finish what is in flight

    def __post_init__(self) -> None:
        """Check that groups can be told apart.

        Raises:
            ConfigError: Two have one name, or the number of threads is below 1.
        """
        names = self.group_names()
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"{twice[0]} is given twice; give it once, with more copies, or name one of them otherwise"
            )
        if self.threads_per_worker is not None and self.threads_per_worker < 1:
            raise ConfigError("a worker needs at least 1 thread")

    def group_names(self) -> list[str]:
        """Return the names of all groups."""
        return [name for spec in self.groups for name in spec.group_names()]

    def threads(self) -> int:
        """Return the threads each worker computes with: this machine's cores shared among all workers, at least 1."""
        if self.threads_per_worker is not None:
            return self.threads_per_worker
        num_workers = sum(spec.world_size * spec.copies for spec in self.groups)
        return max(1, len(os.sched_getaffinity(0)) // max(1, num_workers))

    def controller_flags(self) -> list[str]:
        """Return the controller's command line."""
        return _flags({"listen": self.controller_listen, **self._drain(), **self.controller_options})

    def gateway_flags(self, controller: str) -> list[str]:
        """Return the gateway's command line."""
        own = {"listen": self.gateway_listen, "controller": controller}
        return _flags({**own, **self._drain(), **self.gateway_options})

    def workers(self, controller: str) -> Iterator[WorkerCommand]:
        """Give each worker's command."""
        places = count()  # of workers on GPUs, over all groups
        for spec in self.groups:
            ranks = spec.ranks or (RankSpec(),) * spec.world_size
            for group in spec.group_names():
                for number, rank in enumerate(ranks):
                    flags = self._worker_flags(spec, group, number, rank, controller)
                    if self.num_gpus and flags.get("device") == _ANY_GPU:
                        flags["device"] = f"{_ANY_GPU}:{next(places) % self.num_gpus}"
                    yield WorkerCommand(name=f"worker-{group}-{number}", prefix=rank.prefix, flags=tuple(_flags(flags)))

    def _worker_flags(
        self, spec: GroupSpec, group: str, number: int, rank: RankSpec, controller: str
    ) -> dict[str, str]:
        own = {
            "model-folder": str(spec.model_folder),
            "model-name": spec.model_name,
            "group": group,
            "tp-size": str(spec.tp_size),
            "pp-size": str(spec.pp_size),
            "rank": str(number),
            "controller": controller,
            "threads": str(self.threads()),
        }
        return {**own, **self._drain(), **spec.options, **rank.options}

    def _drain(self) -> dict[str, str]:
        return {"drain-limit-s": f"{self.drain_limit_s:g}"}


def _flags(values: Mapping[str, str]) -> list[str]:
    return [part for name, value in values.items() for part in (f"--{name}", value) if part]
