"""Exchanges of the GPUs of one node by copy engines and stream memory operations."""

import logging
import threading
from typing import Any, Final

import torch
from torch import Tensor

from liger.errors import GroupFailedError
from worker.communicator.base import PLACES, Span
from worker.communicator.copy_engine.driver import Driver
from worker.communicator.copy_engine.programs import Lanes, Program
from worker.communicator.copy_engine.protocol import Chunking, Lane, Protocol, Rows
from worker.communicator.copy_engine.runtime import Runtime
from worker.communicator.copy_engine.segments import Segments
from worker.communicator.memory import view_of
from worker.communicator.pieces import sum_in_order

_LOG: Final = logging.getLogger(__name__)
_MOST_PROGRAMS: Final = 4096  # beyond, all are compiled anew
_NUM_GATHER_EVENTS: Final = 16
_POISON_S: Final = 0.001

_Name = tuple[int, torch.Size, torch.dtype]
"""Address, shape and dtype of partial sums."""


class CopyExchange:
    """One exchange under way. Implements `Exchange`."""

    ended_ns = None

    def __init__(
        self, owner: "CopyEngineCommunicator", done: int, result: tuple[Tensor, ...], span: Span | None
    ) -> None:
        self._owner = owner
        self._done = done
        self._result = result
        self.span = span

    def wait(self) -> tuple[Tensor, ...]:
        """Let the current stream wait for it, and return what it gives."""
        self._owner.await_event(self._done)
        return self._result


class CopyEngineCommunicator:
    """Copy-engine exchanges of one epoch. Implements `Communicator`.

    Two ranks give two addends, more give one. Tensors that are no memory of `partial` are gathered whole: slower, and
    not while a graph is captured.

    Args:
        segments: The ranks' memory; the communicator's own.
        driver: Takes the calls.
        runtime: Of this rank's device.
        chunking: Of what goes through the host.
    """

    def __init__(self, segments: Segments, driver: Driver, runtime: Runtime, chunking: Chunking | None = None) -> None:
        at = segments.addresses
        self.rank = at.rank
        self.world_size = at.layout.world_size
        self.is_staged = at.is_staged  # whether bytes pass through the host
        self.timed = False
        self.is_beside = False
        self._segments = segments
        self._driver = driver
        self._runtime = runtime
        self._protocol = Protocol(at, chunking or Chunking())
        self._lanes = Lanes(driver, runtime, self._own_bytes)
        self._partials: dict[tuple[int, int, tuple[int, int], torch.dtype], Tensor] = {}
        self._programs: dict[_Name, tuple[Program, int, Tensor | None]] = {}
        self._dones: dict[tuple[int, int], int] = {}  # by key and first row
        self._priors: dict[int, int] = {}  # by key: the end of its last exchange outside of graphs
        self._gather_dones = [driver.new_event() for _ in range(_NUM_GATHER_EVENTS)]
        self._num_gathers = 0
        self._poisoner = _Poisoner(segments)
        self._is_aborted = False
        self._is_closed = False

    def partial(self, slot: int, place: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return the memory of a slot's place."""
        name = (slot, place, shape, dtype)
        found = self._partials.get(name)
        if found is None:
            layout = self._segments.addresses.layout
            if shape[1] * dtype.itemsize > layout.row_bytes:
                raise ValueError(f"partial sums of {shape} {dtype} do not fit their exchange memory")
            if shape[0] > layout.max_tokens:  # a long input runs alone, and is exchanged in a slower way
                return torch.empty(shape, dtype=dtype, device=self._segments.partials.device)
            start = (slot * PLACES + place) * layout.place_bytes
            found = view_of(self._segments.partials[start : start + layout.place_bytes], shape, dtype)
            _bound(self._partials)
            self._partials[name] = found
        return found

    def all_reduce(self, partial: Tensor) -> CopyExchange:
        """Bring partial sums together: addends in rank order."""
        self._check()
        name = (partial.data_ptr(), partial.shape, partial.dtype)
        found = self._programs.get(name) or self._compile(partial, name)
        if found is None:
            return self._reduce_foreign(partial)
        program, key, inbox = found
        is_captured = self._runtime.is_capturing()
        other = key ^ 1  # of the slot's two places
        prior = None if is_captured else self._priors.get(other)
        span = self._run(program, prior, timed=not is_captured)
        if is_captured:  # nothing outside may wait for what is inside of a graph
            self._priors.pop(key, None)
        else:
            self._priors[key] = program.done
        if inbox is None:
            return CopyExchange(self, program.done, (partial,), span)
        addends = (partial, inbox) if self.rank == 0 else (inbox, partial)
        return CopyExchange(self, program.done, addends, span)

    def all_gather(self, part: Tensor) -> CopyExchange:
        """Bring equally shaped parts together, in rank order. Not while a graph is captured."""
        self._check()
        assert not self._runtime.is_capturing(), "gathers take areas in turns, which graphs cannot"
        part = part.contiguous()
        parts = [part if rank == self.rank else torch.empty_like(part) for rank in range(self.world_size)]
        size, area_bytes = part.numel() * part.element_size(), self._segments.addresses.layout.area_bytes
        spans, done = [], 0
        for start in range(0, size, area_bytes):
            done, span = self._gather(parts, start, min(area_bytes, size - start))
            spans.append(span)
        for one in parts:
            self._runtime.hold(one, self._lanes.streams[Lane.RECEIVE])  # it ends after the lane that sends
        span = (spans[0][0], spans[-1][1]) if spans and spans[0] and spans[-1] else None
        return CopyExchange(self, done, tuple(parts), span)

    def await_event(self, done: int) -> None:
        """Let the current stream wait for an exchange's end; 0 is of one without anything to do.

        Raises:
            GroupFailedError: The exchanges were aborted.
        """
        self._check()
        if done:
            function, arguments = self._driver.wait_for(self._runtime.current_stream(), done)
            self._driver.check(function(*arguments))

    def abort(self) -> None:
        """End all exchanges: their flags are set until the lanes have run empty; what they give is worthless.

        Exchanges, here or in graphs, need not be known: every flag that this rank can wait for is set.
        """
        self._is_aborted = True
        self._poisoner.start()

    def close(self) -> None:
        """Let the device come to rest, whatever its lanes or graphs still wait for, and let go of memory."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._runtime.begin()
            self.abort()  # nothing is under way that anybody wants
            self._runtime.rest()
        except RuntimeError:  # how torch tells that the device is lost; whoever closes has more to close
            _LOG.warning("the device did not come to rest", exc_info=True)
        finally:
            self._poisoner.stop()
        for event in (*self._dones.values(), *self._gather_dones):
            self._driver.free_event(event)
        self._lanes.close()
        self._programs.clear()
        self._partials.clear()
        self._segments.close()

    def _run(self, program: Program, prior: int | None, *, timed: bool) -> Span | None:
        caller = self._runtime.current_stream()
        prior = prior if self.is_staged else None
        return self._lanes.run(program, caller=caller, prior=prior, timed=timed and self.timed)

    def _compile(self, partial: Tensor, name: _Name) -> tuple[Program, int, Tensor | None] | None:
        """Return the program for rows of exchange memory, its key and their inbox; None for other tensors."""
        at = self._segments.addresses
        offset, size = partial.data_ptr() - at.partials, partial.numel() * partial.element_size()
        if partial.dim() != 2 or not 0 <= offset < at.layout.payload_bytes:
            return None
        key, offset = divmod(offset, at.layout.place_bytes)
        row_bytes = partial.shape[1] * partial.element_size()
        assert partial.is_contiguous() and offset % row_bytes == 0, "pieces are rows"  # noqa: PT018 - one bug
        rows = Rows(key=key, first=offset // row_bytes, count=len(partial), row_bytes=row_bytes)
        if (key, rows.first) not in self._dones:
            self._dones[key, rows.first] = self._driver.new_event()
        program = self._lanes.compile(self._protocol.reduce(rows), self._dones[key, rows.first], partial.dtype)
        inbox = None
        if self.world_size == 2:
            start = at.inbox(1 - self.rank, key) + offset
            inbox = self._own_bytes(start, size).view(partial.dtype).view(partial.shape)
        _bound(self._programs)
        self._programs[name] = program, key, inbox
        return self._programs[name]

    def _reduce_foreign(self, partial: Tensor) -> CopyExchange:
        gathered = self.all_gather(partial)
        if self.world_size == 2:
            return gathered
        sum_in_order(gathered.wait(), partial)
        return CopyExchange(self, 0, (partial,), gathered.span)

    def _gather(self, parts: list[Tensor], start: int, num_bytes: int) -> tuple[int, Span | None]:
        """Bring bytes of all parts together that fit an area."""
        number = self._num_gathers
        self._num_gathers += 1
        targets = [part.data_ptr() + start for part in parts]
        operations = self._protocol.gather(targets[self.rank], targets, num_bytes, number)
        done = self._gather_dones[number % _NUM_GATHER_EVENTS]
        prior = self._gather_dones[(number - 1) % _NUM_GATHER_EVENTS] if number else None
        program = self._lanes.compile(operations, done, parts[0].dtype)
        return done, self._run(program, prior, timed=True)

    def _own_bytes(self, address: int, num_bytes: int) -> Tensor:
        """Return this rank's memory at an address."""
        for block in (self._segments.partials, self._segments.inboxes):
            start = address - block.data_ptr()
            if 0 <= start < len(block):
                return block[start : start + num_bytes]
        raise AssertionError("sums are of a rank's own memory")

    def _check(self) -> None:
        if self._is_aborted:
            raise GroupFailedError("exchanges were ended: the group's epoch is over")


class _Poisoner:
    """Sets the flags of aborted exchanges again and again, as readers lower them for the next use."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless it has begun or is over."""
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._run, name="poison", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End."""
        with self._lock:
            self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_POISON_S):
            self._segments.poison()


def _bound(cache: dict[Any, Any]) -> None:
    if len(cache) >= _MOST_PROGRAMS:
        cache.clear()
