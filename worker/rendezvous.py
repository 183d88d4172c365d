"""How the ranks of an epoch find one another: a key-value store on rank 0's worker, keys of this epoch alone."""

import socket
import threading
from datetime import timedelta
from typing import Any, Final

import torch.distributed

from liger.errors import ConfigError, GroupFailedError
from worker.rank import JoinPlan

_DIST: Final[Any] = torch.distributed  # torch's stubs leave the stores out
_POLL_S: Final = 0.02
_STORE_LIMIT: Final = timedelta(seconds=30)


class RendezvousStore:
    """The store that this worker offers; used if it becomes rank 0.

    Args:
        host: Address under which the other ranks reach it; it listens there alone.

    Raises:
        ConfigError: The host is not of this machine.
    """

    def __init__(self, host: str) -> None:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.bind(address)
            listener.listen()
        except OSError as error:
            mend = "set --listen, --advertise or --exchange-host"
            raise ConfigError(f"cannot listen on {host}: {error.strerror}; {mend}") from error
        port = listener.getsockname()[1]
        self.endpoint = f"{host}:{port}"
        self._store: Any = _DIST.TCPStore(
            host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach(), timeout=_STORE_LIMIT
        )

    def close(self) -> None:
        """Stop listening."""
        self._store = None


class Rendezvous:
    """One epoch's meeting.

    Args:
        plan: Names the epoch, the store and this rank.
        limit_s: Longest wait for the others, in seconds.
        aborted: Ends the wait.
    """

    def __init__(self, plan: JoinPlan, *, limit_s: float, aborted: threading.Event) -> None:
        self._plan = plan
        self._limit_s = limit_s
        self._aborted = aborted

    def meet(self) -> Any:
        """Wait until every rank has come and return the store, under this epoch's prefix.

        Raises:
            GroupFailedError: One did not come in time, the store cannot be reached, or the epoch ended.
        """
        plan = self._plan
        host, _, port = plan.rendezvous_endpoint.rpartition(":")
        fence = plan.fence
        try:
            store = _DIST.TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=_STORE_LIMIT)
            prefixed: Any = _DIST.PrefixStore(f"{fence.group}/{fence.leader_term}/{fence.epoch}", store)
            self._wait_for_all(prefixed)
        except (RuntimeError, ValueError) as error:
            where = plan.rendezvous_endpoint
            raise GroupFailedError(f"the ranks' meeting place {where} cannot be reached: {error}") from error
        return prefixed

    def _wait_for_all(self, store: Any) -> None:
        store.set(f"here/{self._plan.rank}", "")
        waited_s = 0.0
        while not store.check([f"here/{rank}" for rank in range(self._plan.world_size)]):
            if self._aborted.wait(_POLL_S):
                raise GroupFailedError("the group's epoch ended while its ranks were meeting")
            waited_s += _POLL_S
            if waited_s > self._limit_s:
                raise GroupFailedError(f"not all ranks came within {self._limit_s:.0f} s")
