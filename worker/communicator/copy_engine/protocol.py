"""What each rank's lanes do in an exchange, as lists of operations. Pure, so that it is tested without a device.

Between two ranks each reads all of the other's partial sums, and both come out as addends. Of more ranks each reads the
others' parts of its own *slice* of the rows, sums them in rank order, and then reads the other slices' sums.

A flag is raised once its rows can be read, and taken (awaited and lowered) by its reader. Why none is raised again
before it was taken, and nothing is overwritten before it was read:

- A rank uses a key again only after its exchange of the slot's other place, begun in between, is done. That one needed
  flags of every other rank (of many ranks through the owners of slices), which they raised only once their own exchange
  of the first use was done: by then they had taken its flags and read its rows. The order holds because a slot's next
  partial sums are computed from the results before, or else because the lane that sends awaits `PRIOR`.
- Gathers use two areas in turns, and each is sent after the gather before it is done here. That one needed flags that
  every other rank raised only after its own gather before that: it had taken and read what the area held.

Within a list an operation comes after all that it needs from its own rank; all ranks make their calls in one order. So
some operation can always go on, whatever runs ahead, even if lanes share a hardware queue.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from worker.communicator.copy_engine.layout import NUM_AREAS, Addresses


class Lane(Enum):
    """Streams of the communication lane."""

    SEND = "send"  # copies to where others read, if that is elsewhere
    RECEIVE = "receive"


class Mark(Enum):
    """Events. One noted again is a new one; who awaited it before keeps to the old."""

    READY = "ready"  # what the exchange was given is there; noted by the caller
    PRIOR = "prior"  # the exchange before, of the same slot or the same kind, is done; noted as its DONE
    SUMMED = "summed"
    SENT = "sent"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Await:
    """Let a lane wait for an event."""

    lane: Lane
    mark: Mark


@dataclass(frozen=True, slots=True)
class Note:
    """Note an event of a lane."""

    lane: Lane
    mark: Mark


@dataclass(frozen=True, slots=True)
class Raise:
    """Set a flag, after all that came before on the lane can be seen."""

    lane: Lane
    flag: int


@dataclass(frozen=True, slots=True)
class Take:
    """Wait until a flag is set, and lower it."""

    lane: Lane
    flag: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy bytes."""

    lane: Lane
    target: int
    source: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Sum:
    """Sum addends in their order, in float32, rounded once. The target may be one of them."""

    lane: Lane
    target: int
    sources: tuple[int, ...]
    num_bytes: int


Operation = Await | Note | Raise | Take | Copy | Sum
Operations = list[Operation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Consecutive rows of a key's partial sums."""

    key: int
    first: int
    count: int
    row_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """How staged rows are cut, so that both ways of a link are busy: at most `most` parts of at least `min_bytes`."""

    min_bytes: int = 2 << 20
    most: int = 8

    def cut(self, rows: range, row_bytes: int) -> list[range]:
        """Return consecutive, nearly equal parts; none is empty."""
        wanted = max(1, min(self.most, len(rows) * row_bytes // self.min_bytes, len(rows)))
        bounds = [rows.start + len(rows) * part // wanted for part in range(wanted + 1)]
        return [range(bounds[part], bounds[part + 1]) for part in range(wanted) if bounds[part] < bounds[part + 1]]


WHOLE: Final = Chunking(most=1)


class Protocol:
    """One rank's lists of operations.

    Args:
        addresses: As the rank sees them.
        chunking: Of staged rows.
    """

    def __init__(self, addresses: Addresses, chunking: Chunking) -> None:
        self._addresses = addresses
        self._staged = addresses.is_staged
        self._chunking = chunking if self._staged else WHOLE
        self._sender = Lane.SEND if self._staged else Lane.RECEIVE

    def reduce(self, rows: Rows) -> Operations:
        """Return the exchange of partial sums that fills inboxes (two ranks) or sums in place (more)."""
        exchange = self._both(rows) if self._addresses.layout.world_size == 2 else self._slices(rows)
        return [*self._begin(), *exchange, *self._end()]

    def gather(self, part: int, targets: Sequence[int], num_bytes: int, area: int) -> Operations:
        """Return the exchange of one area's bytes.

        Args:
            part: Where this rank's bytes are.
            targets: By rank, where each one's go; this rank's own is left out.
            num_bytes: At most an area's.
            area: Counts up with each gather, round the areas.
        """
        at, area = self._addresses, area % NUM_AREAS
        operations: Operations = [*self._begin()]
        operations.append(Copy(self._sender, at.area(at.rank, area), part, num_bytes))
        operations += [Raise(self._sender, at.area_flag(other, area, at.rank)) for other in at.others]
        for other in reversed(at.others):
            operations.append(Take(Lane.RECEIVE, at.area_flag(at.rank, area, other)))
            operations.append(Copy(Lane.RECEIVE, targets[other], at.area(other, area), num_bytes))
        return [*operations, *self._end()]

    def _begin(self) -> Iterator[Operation]:
        """Both lanes await the caller, so that both are part of a graph that is being captured."""
        if self._staged:
            yield Await(Lane.SEND, Mark.READY)
            yield Await(Lane.SEND, Mark.PRIOR)
        yield Await(Lane.RECEIVE, Mark.READY)

    def _end(self) -> Iterator[Operation]:
        """Done is what was read and what was sent: the caller may then write where this rank's bytes were."""
        if self._staged:
            yield Note(Lane.SEND, Mark.SENT)
            yield Await(Lane.RECEIVE, Mark.SENT)
        yield Note(Lane.RECEIVE, Mark.DONE)

    def _both(self, rows: Rows) -> Iterator[Operation]:
        """Each reads all of the other's rows."""
        at = self._addresses
        (other,) = at.others
        for part in self._chunking.cut(range(rows.first, rows.first + rows.count), rows.row_bytes):
            yield from self._publish(rows, part, (other,))
            offset, num_bytes = part.start * rows.row_bytes, len(part) * rows.row_bytes
            yield Take(Lane.RECEIVE, at.flag(at.rank, rows.key, other, part.start))
            target, source = at.inbox(other, rows.key) + offset, at.published(other, rows.key) + offset
            yield Copy(Lane.RECEIVE, target, source, num_bytes)

    def _slices(self, rows: Rows) -> Iterator[Operation]:
        """Each sums its own slice and reads the sums of the others'."""
        at = self._addresses
        slices = slices_of(rows.first, rows.count, at.layout.world_size)
        for other in at.others:
            for part in self._parts(slices[other], rows):
                yield from self._publish(rows, part, (other,))
        for part in self._parts(slices[at.rank], rows):
            yield from self._sum(rows, slices[at.rank], part)
            if self._staged:
                yield Note(Lane.RECEIVE, Mark.SUMMED)
                yield Await(Lane.SEND, Mark.SUMMED)
            yield from self._publish(rows, part, at.others)
        for other in reversed(at.others):
            for part in self._parts(slices[other], rows):
                offset, num_bytes = part.start * rows.row_bytes, len(part) * rows.row_bytes
                yield Take(Lane.RECEIVE, at.flag(at.rank, rows.key, other, part.start))
                target, source = at.partial(rows.key) + offset, at.published(other, rows.key) + offset
                yield Copy(Lane.RECEIVE, target, source, num_bytes)

    def _sum(self, rows: Rows, own: range, part: range) -> Iterator[Operation]:
        """Read the other ranks' part of this rank's slice and sum it with its own.

        Pieces of one tensor keep apart in the inbox: each begins where the slices of all rows before it end.
        """
        at = self._addresses
        offset, num_bytes = part.start * rows.row_bytes, len(part) * rows.row_bytes
        row = _num_before(rows.first, at.rank, at.layout.world_size) + part.start - own.start
        target = at.partial(rows.key) + offset
        addends = {at.rank: target}
        for other in reversed(at.others):
            addends[other] = at.inbox(other, rows.key) + row * rows.row_bytes
            yield Take(Lane.RECEIVE, at.flag(at.rank, rows.key, other, part.start))
            yield Copy(Lane.RECEIVE, addends[other], at.published(other, rows.key) + offset, num_bytes)
        yield Sum(Lane.RECEIVE, target, tuple(addends[rank] for rank in sorted(addends)), num_bytes)

    def _publish(self, rows: Rows, part: range, readers: Sequence[int]) -> Iterator[Operation]:
        """Let others read rows of this rank's partial sums."""
        at = self._addresses
        if self._staged:
            offset, num_bytes = part.start * rows.row_bytes, len(part) * rows.row_bytes
            target = at.published(at.rank, rows.key) + offset
            yield Copy(Lane.SEND, target, at.partial(rows.key) + offset, num_bytes)
        for reader in readers:
            yield Raise(self._sender, at.flag(reader, rows.key, at.rank, part.start))

    def _parts(self, rows: range, whole: Rows) -> list[range]:
        return self._chunking.cut(rows, whole.row_bytes) if rows else []


def slices_of(first: int, count: int, world_size: int) -> list[range]:
    """Cut rows into one consecutive slice a rank, nearly equal.

    A rank's slices of consecutive pieces are together no longer than its slice of the whole would be.
    """
    slices, start = [], first
    for rank in range(world_size):
        length = _num_before(first + count, rank, world_size) - _num_before(first, rank, world_size)
        slices.append(range(start, start + length))
        start += length
    return slices


def _num_before(row: int, rank: int, world_size: int) -> int:
    """Return how many of the rows before this one leave the rank as the remainder by the world size."""
    return (row + world_size - 1 - rank) // world_size
