"""What running sequences hold: rows of the sequence table and KV blocks.

Blocks are taken as they are needed. Where none is left, the newest sequence of the lowest priority gives its own back
and is computed again later (preemption by recompute). A block goes to another only after every batch that reads or
writes it is acknowledged; a block becomes findable only when it is full and its tokens are committed.
"""

from dataclasses import dataclass, field

from controller.core.block_manager import BlockManager
from controller.core.sequence import Sequence, SequenceState
from liger.schedule import BlockAppends


@dataclass(slots=True)
class Appends:
    """The blocks that one batch's sequences get."""

    rows: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    copies: list[tuple[int, int, int]] = field(default_factory=list)  # row, source, target

    def done(self) -> BlockAppends:
        """Return them in columns."""
        copy_rows, sources, targets = zip(*self.copies, strict=True) if self.copies else ((), (), ())
        return BlockAppends(
            rows=tuple(self.rows),
            counts=tuple(self.counts),
            blocks=tuple(self.blocks),
            copy_rows=tuple(copy_rows),
            copy_sources=tuple(sources),
            copy_targets=tuple(targets),
        )


class SequenceMemory:
    """Rows and blocks of one group in one epoch.

    Args:
        num_rows: Rows of the sequence table.
        blocks: KV blocks.
    """

    def __init__(self, num_rows: int, blocks: BlockManager) -> None:
        self.blocks = blocks
        self.running: list[Sequence] = []  # RUNNING ones
        self.preempted: list[Sequence] = []  # WAITING again; whoever queues them takes them out
        self.num_preemptions = 0
        self.num_looked_up = 0  # prompt tokens looked for in the prefix cache
        self.num_found = 0  # of them
        self._leaving: list[Sequence] = []  # ENDED or PREEMPTED, with batches that are not acknowledged
        self._free_rows = list(range(num_rows - 1, -1, -1))
        self._freed_rows: list[int] = []

    @property
    def num_free_rows(self) -> int:
        """Rows that sequences may get."""
        return len(self._free_rows)

    def take_freed_rows(self) -> tuple[int, ...]:
        """Return the rows freed since the last call, for the ranks."""
        rows, self._freed_rows = tuple(self._freed_rows), []
        return rows

    def admit(self, sequence: Sequence) -> bool:
        """Let a sequence run if there is a row, and room for what it must compute beside those that run."""
        if not self._free_rows:
            return False
        blocks = self.blocks
        findable = 0 if sequence.wants_prompt_logprobs else (sequence.num_known - 1) // blocks.block_size
        cached = blocks.find_prefix(sequence.digests_of(findable, blocks.block_size))
        reserve = min(len(self.running), blocks.num_blocks // 16)  # blocks that those may need soon
        if blocks.blocks_for(sequence.num_known) - len(cached) > blocks.num_free - reserve and self._is_anyone_here():
            blocks.free(cached)
            return False
        if not sequence.has_run:
            self.num_looked_up += sequence.num_prompt_tokens
            self.num_found += len(cached) * blocks.block_size
        sequence.begin(self._free_rows.pop(), cached, blocks.block_size)
        self.running.append(sequence)
        return True

    def fork(self, sequence: Sequence, follower: Sequence) -> None:
        """Let a follower run on what its leader holds; there is a free row."""
        self.blocks.share(sequence.blocks)
        follower.begin(self._free_rows.pop(), tuple(sequence.blocks), self.blocks.block_size)
        follower.num_told = len(follower.blocks)
        follower.num_prefilled = follower.num_to_prefill = sequence.num_to_prefill
        follower.num_findable, follower.num_cached = 0, 0
        self.running.append(follower)

    def reserve(self, sequence: Sequence, start: int, stop: int, appends: Appends) -> bool:
        """Get the blocks in which a sequence's tokens from `start` to `stop` are written; tell the ranks by `appends`.

        Sequences that are newer may be preempted for it. False (and nothing changes for it) if it must wait.
        """
        blocks, table = self.blocks, sequence.blocks
        place = start // blocks.block_size
        if stop <= sequence.num_told * blocks.block_size and not blocks.is_shared(table[place]):
            return True  # the ranks know the block: so it is for most tokens
        copies = place < len(table) and blocks.is_shared(table[place])
        missing = max(0, blocks.blocks_for(stop) - len(table))
        if (missing or copies) and not self._make_room(sequence, missing + copies):
            return False
        if place < len(table) and blocks.is_shared(table[place]):  # those that were preempted may have shared it
            target = blocks.writable(table[place])
            assert target is not None, "there is room"
            appends.copies.append((sequence.row, table[place], target))
            table[place] = target
        if missing:
            fresh = blocks.allocate(missing)
            assert fresh is not None, "there is room"
            table.extend(fresh)
        if sequence.num_told < len(table):
            appends.rows.append(sequence.row)
            appends.counts.append(len(table) - sequence.num_told)
            appends.blocks.extend(table[sequence.num_told :])
            sequence.num_told = len(table)
        return True

    def preempt(self, sequence: Sequence) -> None:
        """Let a running sequence give its memory back, to be computed again."""
        sequence.advance(SequenceState.PREEMPTED)
        self.num_preemptions += 1
        self.leave(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Take back what a sequence holds that runs no more, now or once its batches are acknowledged."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._leaving.append(sequence)
        self.release_if_over(sequence)

    def release_if_over(self, sequence: Sequence) -> None:
        """Take back what a leaving sequence holds if none of its batches is in flight any more."""
        if sequence.num_unacknowledged or sequence not in self._leaving:
            return
        self._leaving.remove(sequence)
        self.blocks.free(sequence.blocks)
        self._free_rows.append(sequence.row)
        if sequence.is_on_ranks:
            self._freed_rows.append(sequence.row)
        sequence.blocks, sequence.num_told, sequence.is_on_ranks = [], 0, False
        if sequence.state is SequenceState.PREEMPTED:
            sequence.advance(SequenceState.WAITING)
            self.preempted.append(sequence)
        else:
            sequence.advance(SequenceState.RELEASED)

    def publish(self, sequence: Sequence, num_computed: int) -> None:
        """Let a sequence's full blocks be found, whose `num_computed` tokens every rank has computed."""
        size = self.blocks.block_size
        num_full = min(num_computed, sequence.num_known) // size
        if num_full <= sequence.num_findable:
            return
        digests = sequence.digests_of(num_full, size)
        for place in range(sequence.num_findable, num_full):
            self.blocks.publish(sequence.blocks[place], digests[place])
        sequence.num_findable = num_full

    def check_integrity(self) -> None:
        """Raise if a block or row is lost or held by nobody.

        Raises:
            LigerError: Our own accounting is wrong.
        """
        holders = [*self.running, *self._leaving]
        self.blocks.check_integrity([sequence.blocks for sequence in holders])

    def _is_anyone_here(self) -> bool:
        return bool(self.running or self._leaving)

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Return whether so many blocks are free, once newer sequences have given theirs back where they can."""
        while self.blocks.num_free < count:
            if self.blocks.num_free + sum(map(self._num_own, self._leaving)) >= count:
                return False  # enough comes back with the next acknowledgements
            newest = max(self.running, key=lambda each: each.order)
            if newest.order <= sequence.order:
                return False
            self.preempt(newest)
        return True

    def _num_own(self, sequence: Sequence) -> int:
        return sum(not self.blocks.is_shared(block) for block in sequence.blocks)
