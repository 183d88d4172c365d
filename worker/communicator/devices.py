"""Connects ranks on devices: by copy engines where they share a node, by NCCL where each has a GPU of its own."""

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed

from liger.errors import ConfigError, LigerError
from worker.communicator.base import Communicator
from worker.communicator.chosen import ChosenCommunicator, Way
from worker.communicator.copy_engine.communicator import CopyEngineCommunicator
from worker.communicator.copy_engine.meeting import Meeting
from worker.communicator.copy_engine.opening import open_copy_engine
from worker.communicator.memory import ExchangeMemory
from worker.communicator.nccl import NcclCommunicator

AUTO: Final = "auto"
MOST_ON_A_NODE: Final = 8
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_DIST: Final[Any] = torch.distributed  # torch's stubs leave the stores out
_LOG: Final = logging.getLogger(__name__)


class DeviceConnector:
    """Opens exchanges between devices.

    Args:
        store: Rendezvous keys of this epoch alone.
        kind: auto, nccl or copy-engine.
        limit_s: Longest wait for the other ranks, in seconds.
        memory: Sizes of activations, and this rank's device.
        open_nccl: Opens NCCL.
        open_copies: Opens copy engines.
    """

    def __init__(
        self,
        store: Any,
        *,
        kind: str,
        limit_s: float,
        memory: ExchangeMemory,
        open_nccl: Callable[..., NcclCommunicator] = NcclCommunicator,
        open_copies: Callable[..., CopyEngineCommunicator] = open_copy_engine,
    ) -> None:
        self.memory = memory
        self._store = store
        self._kind = kind
        self._limit_s = limit_s
        self._open_nccl = open_nccl
        self._open_copies = open_copies

    def stage(self, name: str, rank: int, world_size: int) -> Communicator:
        """Connect the ranks of a stage.

        Where both ways are open, copy engines come first if bytes pass through the host, else NCCL does.

        Raises:
            ConfigError: They cannot exchange in the way asked for.
            GroupFailedError: They did not find one another within the limit.
        """
        meeting = Meeting(_DIST.PrefixStore(name, self._store), rank=rank, world_size=world_size)
        nodes = meeting.tell("node", node_name())
        devices = meeting.tell("device", f"{node_name()} {_device_name(self.memory.device)}")
        ways = ways_of(self._kind, nodes, devices)
        opened: dict[Way, Communicator] = {}
        try:
            for way in ways:
                self._add(opened, way, f"{name}/{way}", rank, world_size, is_only=len(ways) == 1)
        except LigerError:
            for one in opened.values():
                one.close()
            raise
        if len(opened) == 1:
            return next(iter(opened.values()))
        copies = opened[Way.COPY_ENGINE]
        assert isinstance(copies, CopyEngineCommunicator), "the first way of several"
        first = Way.COPY_ENGINE if copies.is_staged else Way.NCCL
        return ChosenCommunicator({name: opened[name] for name in sorted(opened, key=lambda way: way is not first)})

    def pair(self, name: str, rank: int) -> NcclCommunicator:
        """Connect this rank with one of another stage; rank 0 of the two sends.

        Raises:
            GroupFailedError: They did not find one another within the limit.
        """
        store = _DIST.PrefixStore(name, self._store)
        return self._open_nccl(store, rank=rank, world_size=2, memory=self.memory, limit_s=self._limit_s)

    def _add(
        self, opened: dict[Way, Communicator], way: Way, name: str, rank: int, world_size: int, *, is_only: bool
    ) -> None:
        """Open a way. Where there is another, one that fails on all ranks alike is left out."""
        store = _DIST.PrefixStore(name, self._store)
        opener: Callable[..., Communicator] = self._open_nccl if way is Way.NCCL else self._open_copies
        try:
            opened[way] = opener(store, rank=rank, world_size=world_size, memory=self.memory, limit_s=self._limit_s)
        except LigerError as error:
            if is_only or way is Way.NCCL:
                raise
            _LOG.warning("the ranks exchange by NCCL alone: %s", error)


def ways_of(kind: str, nodes: list[str], devices: list[str]) -> tuple[Way, ...]:
    """Return the ways to open, from all ranks' nodes and devices.

    Raises:
        ConfigError: What is asked for cannot be.
    """
    own_devices = len(set(devices)) == len(devices)  # NCCL takes no two ranks on one
    one_node = len(set(nodes)) == 1 and len(nodes) <= MOST_ON_A_NODE
    possible = {Way.COPY_ENGINE: one_node, Way.NCCL: own_devices}
    if kind == AUTO:
        wanted = tuple(way for way, can in possible.items() if can)
        if not wanted:
            raise ConfigError("ranks that share a GPU with one another must all be of one node, at most 8")
        return wanted
    if kind not in list(Way):
        raise ConfigError(f"--communicator {kind} connects no GPUs; use auto, nccl or copy-engine")
    way = Way(kind)
    if not possible[way]:
        mend = {
            Way.COPY_ENGINE: "copy engines connect 2 to 8 ranks of one node; use --communicator nccl",
            Way.NCCL: "NCCL needs a GPU for each rank; use --communicator copy-engine",
        }
        raise ConfigError(mend[way])
    return (way,)


def node_name() -> str:
    """Return what tells this machine from others."""
    boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return f"{socket.gethostname()} {boot_id}"


def _device_name(device: torch.device) -> str:
    properties: Any = torch.cuda.get_device_properties(device)
    return str(properties.uuid)
