"""Watches what batches do to KV blocks, and refuses what could spoil them. For debugging and tests; no torch.

Batches are part-way through their layers at the same time, so nothing but the schedule itself keeps a block from being
written while another batch reads it. The rules: from a batch's start until its end no other batch writes a block that
it reads or writes, and none reads what it writes; what is read was written by batches that are over; a block that is
copied is not being written.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from liger.errors import ScheduleRefusedError
from liger.schedule import BatchStart, BlockAppends, DecodeRows, EncodeRows, PrefillRows, Window


@dataclass(frozen=True, slots=True)
class _Use:
    """What a batch in flight does."""

    rows: frozenset[int]
    reads: frozenset[int]  # blocks, wholly
    writes: dict[int, int]  # by block: tokens in it afterwards


class KvHazards:
    """Follows one epoch's windows.

    Args:
        block_size: Tokens a block holds.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._tables: dict[int, list[int]] = {}  # by row
        self._written: dict[int, int] = {}  # by block: tokens in it that batches which are over have written
        self._in_flight: dict[int, _Use] = {}  # by batch id

    def table(self, row: int) -> list[int]:
        """Return the blocks of a row.

        Raises:
            ScheduleRefusedError: No sequence holds it.
        """
        if row not in self._tables:
            raise ScheduleRefusedError(f"no sequence holds row {row}")
        return self._tables[row]

    def begin(self, window: Window) -> None:
        """Take what a window changes before its first segment.

        Raises:
            ScheduleRefusedError: A row or block is used by two batches in a way that could spoil it.
        """
        busy = {row for use in self._in_flight.values() for row in use.rows}
        for row in window.sequence_ends:
            if row in busy:
                raise ScheduleRefusedError(f"row {row} is freed while a batch in flight advances it")
            self.table(row)
            del self._tables[row]
        for sequence in window.sequence_starts:
            if sequence.row in self._tables:
                raise ScheduleRefusedError(f"row {sequence.row} is given to two sequences")
            self._tables[sequence.row] = []
        for start in window.batch_starts:
            self._start(start)

    def end(self, batch_id: int) -> None:
        """Take the end of a batch: what it wrote may be read from now on."""
        self._written.update(self._in_flight.pop(batch_id).writes)

    def _start(self, start: BatchStart) -> None:
        rows = start.rows
        if isinstance(rows, EncodeRows):
            self._in_flight[start.batch_id] = _Use(frozenset(), frozenset(), {})
            return
        forks = rows.forks() if isinstance(rows, PrefillRows) else ((),) * len(rows.rows)
        everyone = frozenset([*rows.rows, *(fork for of_chunk in forks for fork in of_chunk)])
        busy = {row for use in self._in_flight.values() for row in use.rows} & everyone
        if busy:
            raise ScheduleRefusedError(f"rows {sorted(busy)} are in two batches in flight")
        self._append(rows.appends)
        for row, of_chunk in zip(rows.rows, forks, strict=True):
            for fork in of_chunk:
                self.table(fork)[:] = self.table(row)
        use = self._use(rows, everyone)
        for other in self._in_flight.values():
            clash = (use.writes.keys() & (other.reads | other.writes.keys())) | (use.reads & other.writes.keys())
            if clash:
                raise ScheduleRefusedError(
                    f"batch {start.batch_id} and another in flight use blocks {sorted(clash)[:8]}, which one writes"
                )
        self._in_flight[start.batch_id] = use

    def _append(self, appends: BlockAppends) -> None:
        for row, source, target in zip(appends.copy_rows, appends.copy_sources, appends.copy_targets, strict=True):
            table = self.table(row)
            if table[-1:] != [source]:
                raise ScheduleRefusedError(f"block {source} of row {row} is copied, but its last is {table[-1:]}")
            if any(source in use.writes or target in use.writes or target in use.reads for use in self._uses()):
                raise ScheduleRefusedError(f"block {source} is copied to {target} while a batch in flight uses them")
            table[-1] = target
            self._written[target] = self._written.get(source, 0)
        taken = 0
        for row, count in zip(appends.rows, appends.counts, strict=True):
            self.table(row).extend(appends.blocks[taken : taken + count])
            taken += count

    def _use(self, rows: PrefillRows | DecodeRows, everyone: frozenset[int]) -> _Use:
        size = self._block_size
        starts = rows.starts if isinstance(rows, PrefillRows) else rows.positions
        counts = rows.num_tokens if isinstance(rows, PrefillRows) else (1,) * len(starts)
        reads, writes = set[int](), dict[int, int]()
        for row, begin, count in zip(rows.rows, starts, counts, strict=True):
            table, end = self.table(row), begin + count
            if len(table) * size < end:
                raise ScheduleRefusedError(f"row {row} has {len(table)} blocks, which do not hold {end} tokens")
            if not self._is_written(table, begin):
                raise ScheduleRefusedError(f"row {row} reads tokens before {begin} that no batch has written")
            reads.update(table[: begin // size])
            for place in range(begin // size, -(-end // size)):
                if table[place] in writes:
                    raise ScheduleRefusedError(f"two rows of a batch write block {table[place]}")
                writes[table[place]] = min(size, end - place * size)
        if reads & writes.keys():
            raise ScheduleRefusedError(f"a batch reads and writes blocks {sorted(reads & writes.keys())[:8]}")
        return _Use(everyone, frozenset(reads), writes)

    def _is_written(self, table: list[int], num_tokens: int) -> bool:
        size = self._block_size
        full = all(self._written.get(block, 0) == size for block in table[: num_tokens // size])
        rest = num_tokens % size
        return full and (rest == 0 or self._written.get(table[num_tokens // size], 0) >= rest)

    def _uses(self) -> Iterable[_Use]:
        return self._in_flight.values()
