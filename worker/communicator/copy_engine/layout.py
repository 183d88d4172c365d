"""Where what lies in the memory of copy-engine exchanges: sizes and addresses. Pure arithmetic.

Every rank has a *segment* that the others can reach, of one layout on all ranks: flags that the rank awaits, two areas
for gathers, and the payload that others read: its partial sums themselves where they can be reached (`peer`), else a
copy of them (`host`). Its *inboxes* are its own: what it has read of others.

A *key* numbers the places of all slots. Flags are told by (key, source rank, row at which the flagged rows begin):
exchanges cut their rows apart, so no two parts under way share one, and no counter is needed.
"""

from dataclasses import dataclass
from typing import Final

from worker.communicator.base import PLACES
from worker.communicator.memory import ExchangeMemory

FLAG_BYTES: Final = 4
NUM_AREAS: Final = 2  # for gathers, used in turns
AREA_BYTES: Final = 2 << 20  # longer gathers take several rounds
_ALIGNMENT: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes, the same on all ranks."""

    world_size: int
    num_slots: int
    max_tokens: int
    row_bytes: int  # of the widest activation
    area_bytes: int = AREA_BYTES

    @classmethod
    def of(cls, memory: ExchangeMemory, world_size: int) -> "Layout":
        """Return the layout for the activations of an epoch."""
        return cls(
            world_size=world_size,
            num_slots=memory.num_slots,
            max_tokens=memory.max_tokens,
            row_bytes=memory.hidden_size * memory.dtype.itemsize,
        )

    @property
    def num_keys(self) -> int:
        """Places of all slots."""
        return self.num_slots * PLACES

    @property
    def num_flags(self) -> int:
        """Flags that one rank awaits."""
        return (self.num_keys * self.max_tokens + NUM_AREAS) * self.world_size

    @property
    def place_bytes(self) -> int:
        """Bytes kept for the partial sums of one key."""
        return _aligned(self.max_tokens * self.row_bytes)

    @property
    def payload_bytes(self) -> int:
        """Bytes kept for all partial sums."""
        return self.num_keys * self.place_bytes

    @property
    def inbox_bytes(self) -> int:
        """Bytes kept for what is read of one other rank, of one key: all of it, or of many ranks one's own slice."""
        rows = self.max_tokens if self.world_size == 2 else -(-self.max_tokens // self.world_size)
        return _aligned(rows * self.row_bytes)

    @property
    def inboxes_bytes(self) -> int:
        """Bytes of all inboxes of a rank."""
        return self.num_keys * (self.world_size - 1) * self.inbox_bytes

    @property
    def areas_offset(self) -> int:
        """Where the areas begin in a segment; flags come before."""
        return _aligned(self.num_flags * FLAG_BYTES)

    @property
    def payload_offset(self) -> int:
        """Where the payload begins in a segment."""
        return _aligned(self.areas_offset + NUM_AREAS * self.area_bytes)

    @property
    def segment_bytes(self) -> int:
        """Bytes of a rank's segment."""
        return self.payload_offset + self.payload_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Addresses as one rank sees them.

    `is_staged` tells whether others read a copy of its partial sums rather than these themselves.
    """

    layout: Layout
    rank: int
    segments: tuple[int, ...]  # by rank
    partials: int  # of this rank; within its segment unless staged
    inboxes: int  # of this rank
    is_staged: bool

    @property
    def others(self) -> list[int]:
        """The other ranks, the next one first, so that not all turn to the same."""
        size = self.layout.world_size
        return [(self.rank + step) % size for step in range(1, size)]

    def partial(self, key: int) -> int:
        """Return where this rank's partial sums begin."""
        return self.partials + key * self.layout.place_bytes

    def published(self, rank: int, key: int) -> int:
        """Return where others read a rank's partial sums."""
        return self.segments[rank] + self.layout.payload_offset + key * self.layout.place_bytes

    def inbox(self, source: int, key: int) -> int:
        """Return where this rank keeps what it reads of another."""
        place = key * (self.layout.world_size - 1) + (source if source < self.rank else source - 1)
        return self.inboxes + place * self.layout.inbox_bytes

    def flag(self, rank: int, key: int, source: int, row: int) -> int:
        """Return the flag by which a rank learns that a source's rows from `row` on are there."""
        layout = self.layout
        return self.segments[rank] + FLAG_BYTES * ((key * layout.world_size + source) * layout.max_tokens + row)

    def area_flag(self, rank: int, area: int, source: int) -> int:
        """Return the flag by which a rank learns that a source has filled an area."""
        layout = self.layout
        before = layout.num_keys * layout.world_size * layout.max_tokens
        return self.segments[rank] + FLAG_BYTES * (before + area * layout.world_size + source)

    def area(self, rank: int, area: int) -> int:
        """Return where a rank's area begins."""
        return self.segments[rank] + self.layout.areas_offset + area * self.layout.area_bytes


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
