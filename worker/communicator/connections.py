"""What connects a rank with the others of its group in one epoch."""

from dataclasses import dataclass
from typing import Any, Final

import torch.distributed

from liger.errors import LigerError
from worker.communicator.base import Communicator
from worker.communicator.devices import DeviceConnector
from worker.communicator.gloo import GlooCommunicator
from worker.communicator.links import Pair, PairLinks
from worker.communicator.local import LocalCommunicator
from worker.communicator.memory import ExchangeMemory, PartialMemory
from worker.communicator.null import NullCommunicator, NullLinks
from worker.communicator.stage_links import StageLinks
from worker.rank import JoinPlan

_DIST: Final[Any] = torch.distributed  # torch's stubs leave the stores out


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """A rank's connections."""

    stage: Communicator  # with the ranks of its own stage
    links: StageLinks  # with its likes in other stages
    host: Communicator  # with the ranks of its own stage, for tensors of the host; the stage's own on the CPU

    def abort(self) -> None:
        """End all exchanges under way with an error. May be called from another thread."""
        self.stage.abort()
        self.links.abort()
        if self.host is not self.stage:
            self.host.abort()

    def close(self) -> None:
        """Let go of all connections."""
        self.stage.close()
        self.links.close()
        if self.host is not self.stage:
            self.host.close()


class Connector:
    """Connects the ranks of an epoch; all of them connect at the same time.

    Args:
        plan: Names this rank and its group's layout.
        store: Rendezvous keys of this epoch alone; None if the group has one rank.
        host: Address of this rank's interface for exchanges.
        limit_s: Longest wait for the other ranks in an exchange, in seconds.
        kind: How ranks on devices exchange: auto, nccl or copy-engine. CPU ranks do by Gloo.
        memory: Sizes of activations and their device; None on the CPU.
    """

    def __init__(
        self,
        plan: JoinPlan,
        store: Any,
        *,
        host: str,
        limit_s: float,
        kind: str = "auto",
        memory: ExchangeMemory | None = None,
    ) -> None:
        self._plan = plan
        self._store = store
        self._host = host
        self._limit_s = limit_s
        self._devices = DeviceConnector(store, kind=kind, limit_s=limit_s, memory=memory) if memory else None

    def connect(self, *, is_null: bool = False) -> Connections:
        """Return this rank's connections; null ones exchange nothing.

        Raises:
            ConfigError: The ranks cannot exchange in the way asked for.
            GroupFailedError: The ranks did not find one another within the limit.
        """
        plan, devices = self._plan, self._devices
        host: Communicator = LocalCommunicator()
        stage: Communicator = LocalCommunicator(PartialMemory(devices.memory)) if devices else host
        if plan.tp_size > 1:
            host = self._open(f"stage/{plan.pp_stage}", plan.tp_rank, plan.tp_size)
            stage = host
            if devices is not None:
                stage = devices.stage(f"device/{plan.pp_stage}", plan.tp_rank, plan.tp_size)
            stage = NullCommunicator(stage) if is_null else stage
            host = host if devices is not None else stage
        if is_null:
            return Connections(stage=stage, links=NullLinks(), host=host)
        try:
            return Connections(stage=stage, links=self._link(), host=host)
        except LigerError:
            stage.close()  # what it holds of a device is not given back by itself
            raise

    def _link(self) -> PairLinks:
        """Open the ways in the same order on all ranks, as each waits for its other end."""
        plan = self._plan
        outgoing: dict[int, Pair] = {}
        incoming: dict[int, Pair] = {}
        last = plan.pp_size - 1
        ways = [(stage, stage + 1) for stage in range(last)] + ([(last, 0)] if last else [])
        for source, target in ways:
            name = f"link/{source}/{target}/{plan.tp_rank}"
            if source == plan.pp_stage:
                outgoing[target] = self._open_pair(name, 0)
            elif target == plan.pp_stage:
                incoming[source] = self._open_pair(name, 1)
        return PairLinks(outgoing, incoming)

    def _open_pair(self, name: str, rank: int) -> Pair:
        return self._devices.pair(name, rank) if self._devices else self._open(name, rank, 2)

    def _open(self, name: str, rank: int, size: int) -> GlooCommunicator:
        store = _DIST.PrefixStore(name, self._store)
        return GlooCommunicator(store, rank=rank, world_size=size, host=self._host, limit_s=self._limit_s)
