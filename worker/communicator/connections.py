"""What connects a rank with the others of its group in one epoch."""

from dataclasses import dataclass
from typing import Any, Final

import torch.distributed

from worker.communicator.base import Communicator, StageLinks
from worker.communicator.gloo import GlooCommunicator
from worker.communicator.links import GlooLinks
from worker.communicator.local import LocalCommunicator
from worker.communicator.null import NullCommunicator, NullLinks
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
    """

    def __init__(self, plan: JoinPlan, store: Any, *, host: str, limit_s: float) -> None:
        self._plan = plan
        self._store = store
        self._host = host
        self._limit_s = limit_s

    def connect(self, *, is_null: bool = False) -> Connections:
        """Return this rank's connections; null ones exchange nothing.

        Raises:
            GroupFailedError: The ranks did not find one another within the limit.
        """
        plan = self._plan
        stage: Communicator = LocalCommunicator()
        if plan.tp_size > 1:
            stage = self._open(f"stage/{plan.pp_stage}", plan.tp_rank, plan.tp_size)
            stage = NullCommunicator(stage) if is_null else stage
        return Connections(stage=stage, links=NullLinks() if is_null else self._link(), host=stage)

    def _link(self) -> GlooLinks:
        """Open the ways in the same order on all ranks, as each waits for its other end."""
        plan = self._plan
        outgoing, incoming = {}, {}
        last = plan.pp_size - 1
        ways = [(stage, stage + 1) for stage in range(last)] + ([(last, 0)] if last else [])
        for source, target in ways:
            name = f"link/{source}/{target}/{plan.tp_rank}"
            if source == plan.pp_stage:
                outgoing[target] = self._open(name, 0, 2)
            elif target == plan.pp_stage:
                incoming[source] = self._open(name, 1, 2)
        return GlooLinks(outgoing, incoming)

    def _open(self, name: str, rank: int, size: int) -> GlooCommunicator:
        store = _DIST.PrefixStore(name, self._store)
        return GlooCommunicator(store, rank=rank, world_size=size, host=self._host, limit_s=self._limit_s)
