"""Devices that run the ranks' lanes in any order their operations allow, and find what one order would overwrite."""

from collections import defaultdict, deque
from itertools import count

import numpy as np

from worker.communicator.copy_engine.layout import Addresses
from worker.communicator.copy_engine.protocol import Await, Copy, Lane, Mark, Note, Raise, Sum, Take

STEP = 1 << 32  # between the memories of ranks


class Machine:
    """All ranks' streams over one memory. Copies take effect in two halves, between which others may run."""

    def __init__(self, layout, *, is_staged, rng):
        self.layout, self.rng, self.is_staged = layout, rng, is_staged
        self.memories = {}
        self.flags = defaultdict(int)
        self.streams = defaultdict(deque)  # by (rank, name): operations
        self.done = set()  # tokens of events
        self.tokens = count()
        self.latest = {}  # by (rank, event): the token that waits take
        segments = tuple(STEP * (rank + 1) for rank in range(layout.world_size))
        self.addresses = [self._addresses(rank, segments) for rank in range(layout.world_size)]

    def _addresses(self, rank, segments):
        base = segments[rank]
        self.memories[base] = np.zeros(layout_bytes(self.layout), np.uint8)
        partials = base + STEP // 4 if self.is_staged else base + self.layout.payload_offset
        if self.is_staged:
            self.memories[partials] = np.zeros(self.layout.payload_bytes, np.uint8)
        inboxes = base + STEP // 2
        self.memories[inboxes] = np.zeros(self.layout.inboxes_bytes, np.uint8)
        return Addresses(
            layout=self.layout,
            rank=rank,
            segments=segments,
            partials=partials,
            inboxes=inboxes,
            is_staged=self.is_staged,
        )

    def allocate(self, rank, num_bytes):
        address = STEP * (rank + 1) + 3 * STEP // 4 + next(self.tokens) * 65536
        self.memories[address] = np.zeros(num_bytes, np.uint8)
        return address

    def view(self, address, num_bytes):
        base = max(start for start in self.memories if start <= address)
        memory = self.memories[base]
        assert address - base + num_bytes <= len(memory), "outside of any memory"
        return memory[address - base : address - base + num_bytes]

    def note(self, rank, stream, event):
        token = self.latest[rank, event] = next(self.tokens)
        self.streams[rank, stream].append(("note", token))

    def wait(self, rank, stream, event):
        if (rank, event) in self.latest:
            self.streams[rank, stream].append(("wait", self.latest[rank, event]))

    def call(self, rank, stream, function):
        self.streams[rank, stream].append(("call", function))

    def enqueue(self, rank, operations, *, lanes, marks):
        """Put an exchange on lanes, whose names are given, with events named by mark; None is left out."""
        for operation in operations:
            stream = (rank, lanes[operation.lane])
            match operation:
                case Note(mark=mark):
                    self.note(rank, stream[1], marks[mark])
                case Await(mark=mark):
                    if marks[mark] is not None:
                        self.wait(rank, stream[1], marks[mark])
                case _:
                    self.streams[stream].append(("run", operation))

    def advance(self):
        """Take one step of any stream that can go on; tell whether one could."""
        ready = [key for key, queue in self.streams.items() if queue and self._can_run(*queue[0])]
        if not ready:
            return False
        self._run(self.streams[self.rng.choice(ready)])
        return True

    def is_idle(self):
        return not any(self.streams.values())

    def _can_run(self, kind, what):
        if kind == "wait":
            return what in self.done
        return not (kind == "run" and isinstance(what, Take)) or self.flags[what.flag] == 1

    def _run(self, queue):
        kind, what = queue.popleft()
        if kind == "note":
            self.done.add(what)
        elif kind == "call":
            what()
        elif kind == "half":
            target, source = what
            target[:] = source
        elif kind == "run":
            self._operate(queue, what)

    def _operate(self, queue, what):
        match what:
            case Raise(flag=flag):
                assert self.flags[flag] == 0, "a flag was raised again before it was taken"
                self.flags[flag] = 1
            case Take(flag=flag):
                self.flags[flag] = 0
            case Copy(target=target, source=source, num_bytes=size):
                target, source, half = self.view(target, size), self.view(source, size), self.rng.randint(0, size)
                queue.appendleft(("half", (target[half:], source[half:])))
                target[:half] = source[:half]
            case Sum(target=target, sources=sources, num_bytes=size):
                addends = [self.view(source, size).view(np.float32) for source in sources]
                total = addends[0].copy()
                for addend in addends[1:]:
                    total += addend
                self.view(target, size).view(np.float32)[:] = total


def layout_bytes(layout):
    return layout.segment_bytes


def lanes_of(name=""):
    return {Lane.SEND: f"send{name}", Lane.RECEIVE: f"receive{name}"}


def marks_of(ready, prior, done, name=""):
    return {
        Mark.READY: ready,
        Mark.PRIOR: prior,
        Mark.SUMMED: f"summed{name}",
        Mark.SENT: f"sent{name}",
        Mark.DONE: done,
    }
