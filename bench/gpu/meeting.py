"""How the ranks of a run meet on the host, beside the product's own exchanges, and what one of them tells."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch.distributed

from bench.gpu.words import RECORD
from liger.errors import LigerError
from worker.communicator.gloo import GlooCommunicator
from worker.communicator.local import LocalCommunicator
from worker.profiler.agreement import Agreement

_DIST: Final[Any] = torch.distributed  # torch's stubs leave the stores out
_LIMIT_S: Final = 180.0  # longest wait for the others: one may compute a reference, or draw weights
_WELL: Final = "well"  # told instead of a failure
ResultT = TypeVar("ResultT")


class Meeting:
    """One rank's place among the others; every call that asks the others is made by all ranks in the same order.

    Args:
        folder: Of this run alone, shared by the ranks.
        rank: This one.
        world_size: All of them.
        deadline_s: When the run has to be over, on `time.time`.
    """

    def __init__(self, folder: Path, *, rank: int, world_size: int, deadline_s: float) -> None:
        self.rank = rank
        self.world_size = world_size
        self._deadline_s = deadline_s
        self.store: Any = _DIST.FileStore(str(folder / "meeting"), world_size)
        if world_size > 1:
            own = _DIST.PrefixStore("bench", self.store)
            self._agreement = Agreement(
                GlooCommunicator(own, rank=rank, world_size=world_size, host="127.0.0.1", limit_s=_LIMIT_S)
            )
        else:
            self._agreement = Agreement(LocalCommunicator())

    def meet(self) -> None:
        """Wait until all ranks are here."""
        self._agreement.meet()

    def slowest(self, *values: float) -> tuple[float, ...]:
        """Return the largest of all ranks' values, place by place; kept to a thousandth."""
        return tuple(value / 1000 for value in self._agreement.slowest([round(1000 * value) for value in values]))

    def share(self, name: str, text: str) -> str:
        """Return what rank 0 has under a name, which no other share has."""
        if self.rank == 0:
            self.store.set(name, text)
        given: bytes = self.store.get(name)
        return given.decode()

    def has_time_for(self, seconds: float) -> bool:
        """Tell whether so many seconds are left, on all ranks alike."""
        (late,) = self.slowest(time.time() + seconds - self._deadline_s)
        return late < 0

    def attempt(self, what: str, work: Callable[[], ResultT]) -> ResultT | None:
        """Return what work gives, or None if it fails on any rank; then it is told of."""
        result, failure = None, _WELL
        try:
            result = work()
        except (LigerError, RuntimeError) as error:
            failure = (error.message if isinstance(error, LigerError) else str(error)) or type(error).__name__
            traceback.print_exc(file=sys.stdout)
        failures = [text for text in self._agreement.texts(failure) if text != _WELL]
        if failures:
            self.tell(f"left out: {what}: {failures[0].splitlines()[0]}")
            return None
        return result

    def tell(self, line: str) -> None:
        """Tell people how far the run is, if this is rank 0."""
        if self.rank == 0:
            print(line, flush=True)

    def record(self, kind: str, row: Mapping[str, object]) -> None:
        """Hand a row to the parent, if this is rank 0."""
        if self.rank == 0:
            sys.stdout.write(f"{RECORD}{json.dumps({'kind': kind, 'row': row})}\n")
            sys.stdout.flush()
