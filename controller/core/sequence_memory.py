"""What running sequences hold: rows of the sequence table and KV blocks.

Blocks are taken as they are needed. Where none is left, the newest sequence of the lowest priority gives its own back
and is computed again later (preemption by recompute). A block goes to another only after every batch that reads or
writes it is acknowledged; a block becomes findable only when it is full and its tokens are committed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from controller.core.block_manager import BlockManager
from controller.core.sequence import Sequence, SequenceState
from liger.errors import LigerError
from liger.schedule import BlockAppends


@dataclass(slots=True)
class Appends:
    """The blocks that one batch's sequences get."""

    rows: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    copies: list[tuple[int, int, int]] = field(default_factory=list)  # row, source, target

    @property
    def sources(self) -> tuple[int, ...]:
        """Blocks that are copied; held until the ranks are told."""
        return tuple(source for _, source, _ in self.copies)

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
        self._sources: list[int] = []  # blocks to be copied by batches that are not published yet
        self._num_promised = 0  # blocks that sequences were admitted with, and have not got yet
        self._hungry: Sequence | None = None  # the oldest that was refused room: newer ones take none before it
        self._computing: dict[bytes, Sequence] = {}  # by digest: who was admitted first to compute a block
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
        if not self._free_rows or self._is_behind_hungry(sequence):
            return False
        blocks, digests = self.blocks, self._prefix(sequence)
        cached = blocks.find_prefix(digests)
        soon = self._num_promised + min(len(self.running), blocks.num_blocks // 16)  # that those need who run
        needed = blocks.blocks_for(sequence.num_known) - len(cached)
        if needed > blocks.num_free - soon and self._is_anyone_here():
            blocks.free(cached)
            return False
        if not sequence.has_run:
            self.num_looked_up += sequence.num_prompt_tokens
            self.num_found += len(cached) * blocks.block_size
        sequence.begin(self._free_rows.pop(), cached, blocks.block_size)
        self.running.append(sequence)
        sequence.num_promised = needed
        self._num_promised += needed
        for digest in digests[len(cached) :]:
            self._computing.setdefault(digest, sequence)
        return True

    def num_to_compute(self, sequence: Sequence) -> int:
        """Return how many tokens of a sequence that waits the prefix cache does not hold now."""
        return sequence.num_known - self.blocks.block_size * self.blocks.num_findable(self._prefix(sequence))

    def is_being_computed(self, sequence: Sequence) -> bool:
        """Whether the first block that a sequence that waits would compute is another's to compute now."""
        if not self._computing:
            return False
        digests = self._prefix(sequence)
        place = self.blocks.num_findable(digests)
        return place < len(digests) and digests[place] in self._computing

    def fork(self, sequence: Sequence, follower: Sequence) -> None:
        """Let a follower run on what its leader holds; there is a free row."""
        self.blocks.share(sequence.blocks)
        follower.begin(self._free_rows.pop(), tuple(sequence.blocks), self.blocks.block_size)
        sequence.num_ready, follower.num_told = 0, len(follower.blocks)  # they share the last block
        follower.num_prefilled = follower.num_to_prefill = sequence.num_to_prefill
        follower.num_findable, follower.num_cached = 0, 0
        self.running.append(follower)

    def reserve(self, sequence: Sequence, start: int, stop: int, appends: Appends) -> bool:
        """Get the blocks in which a sequence's tokens from `start` to `stop` are written; tell the ranks by `appends`.

        Sequences that are newer may be preempted for it. False (and nothing changes for it) if it must wait.
        """
        if stop <= sequence.num_ready:
            return True
        blocks, table = self.blocks, sequence.blocks
        place = start // blocks.block_size
        copies = place < len(table) and blocks.is_shared(table[place])
        missing = max(0, blocks.blocks_for(stop) - len(table))
        if (missing or copies) and not self._make_room(sequence, missing + copies):
            return False
        if place < len(table) and blocks.is_shared(table[place]):  # those that were preempted may have shared it
            self._copy(sequence, place, appends)
        if missing:
            fresh = blocks.allocate(missing)
            assert fresh is not None, "there is room"
            table.extend(fresh)
            self._keep_promise(sequence, missing)
        if sequence.num_told < len(table):
            appends.rows.append(sequence.row)
            appends.counts.append(len(table) - sequence.num_told)
            appends.blocks.extend(table[sequence.num_told :])
            sequence.num_told = len(table)
        sequence.num_ready = len(table) * blocks.block_size  # blocks behind `place` are its own, too
        return True

    def _copy(self, sequence: Sequence, place: int, appends: Appends) -> None:
        """Give a sequence a copy of one of its blocks; the source is held until the ranks are told to copy."""
        source = sequence.blocks[place]
        self.blocks.share([source])
        target = self.blocks.writable(source)
        assert target is not None, "there is room"
        self._sources.append(source)
        appends.copies.append((sequence.row, source, target))
        sequence.blocks[place] = target

    def told(self, sources: Iterable[int]) -> None:
        """Let go of blocks that the ranks have been told to copy."""
        for source in sources:
            self._sources.remove(source)
            self.blocks.free([source])

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
        self._keep_promise(sequence, sequence.num_promised)
        self._computed(sequence, len(sequence.digests))
        if self._hungry is sequence:
            self._hungry = None
        sequence.num_ready = 0
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
        self._computed(sequence, num_full)

    def check_integrity(self) -> None:
        """Raise if a block or row is lost or held by nobody.

        Raises:
            LigerError: Our own accounting is wrong.
        """
        holders = [*self.running, *self._leaving]
        self.blocks.check_integrity([*(sequence.blocks for sequence in holders), self._sources])
        if self._num_promised != sum(sequence.num_promised for sequence in self.running):
            raise LigerError(f"{self._num_promised} KV blocks are promised, which is not what sequences wait for")
        if not set(map(id, self._computing.values())) <= set(map(id, self.running)):
            raise LigerError("a KV block is to be computed by a sequence that does not run")

    def _prefix(self, sequence: Sequence) -> tuple[bytes, ...]:
        """Return the digests of the blocks that a sequence may find: one token at least is computed, to draw from."""
        size = self.blocks.block_size
        return sequence.digests_of(0 if sequence.wants_prompt_logprobs else (sequence.num_known - 1) // size, size)

    def _is_anyone_here(self) -> bool:
        return bool(self.running or self._leaving)

    def _is_behind_hungry(self, sequence: Sequence) -> bool:
        return self._hungry is not None and self._hungry.order < sequence.order

    def _keep_promise(self, sequence: Sequence, count: int) -> None:
        count = min(count, sequence.num_promised)
        sequence.num_promised -= count
        self._num_promised -= count

    def _computed(self, sequence: Sequence, num_blocks: int) -> None:
        """Forget that a sequence computes its first blocks: it has, or will not."""
        for digest in sequence.digests[:num_blocks] if self._computing else ():
            if self._computing.get(digest) is sequence:
                del self._computing[digest]

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Return whether a sequence may have so many blocks, once newer ones have given theirs back where they can."""
        if self._is_behind_hungry(sequence):
            return False
        while self.blocks.num_free < count:
            self._hungry = sequence
            if self.blocks.num_free + sum(map(self._num_own, self._leaving)) >= count:
                return False  # enough comes back with the next acknowledgements
            holders = [each for each in self.running if each.blocks]
            newest = max(holders, key=lambda each: each.order, default=sequence)
            if newest.order <= sequence.order:
                return False
            self.preempt(newest)
        if self._hungry is sequence:
            self._hungry = None
        return True

    def _num_own(self, sequence: Sequence) -> int:
        return sum(not self.blocks.is_shared(block) for block in sequence.blocks)
