"""Decides what runs next: continuous batching of sequences, encode batches by token budget, classes in turn.

The classes are decode, prefill and encode. The class that was served longest ago goes first if it has work, so that
none starves; inside a class, higher priority goes first, then first come first served.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol

from controller.core.batch import Batch, EncodeEntry
from controller.core.block_manager import BlockManager
from controller.core.queues import PriorityQueue
from controller.core.requests import EncodeItem
from controller.core.rows import encode_rows, prefill_batch, start_of
from controller.core.sequence import Sequence, SequenceState
from liger.domain import BatchKind
from liger.schedule import DecodeRows


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Bounds of batches."""

    max_batch_tokens: int  # tokens of a prefill or encode batch; a longer single input runs alone
    max_sequences: int  # rows of the sequence table, so sequences in work


@dataclass(slots=True, eq=False)
class _Asked:
    """A discriminative request, as its queued inputs see it."""

    num_queued: int
    num_queued_tokens: int
    is_dropped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    entry: EncodeEntry
    item: EncodeItem
    asked: _Asked


class Sizing(Protocol):
    """Says what size of batch pays."""

    def num_parts(self, kind: BatchKind, num_tokens: int) -> int:
        """Return in how many batches so many waiting tokens should run that would fit one."""
        ...

    def num_groups(self, num_sequences: int, context: int) -> int:
        """Return in how many decode batches so many sequences should run."""
        ...


class BatchManager:
    """The queues and running sequences of one group in one epoch.

    Args:
        limits: Bounds of batches.
        blocks: KV blocks.
        sizing: Says whether one batch or two pay; None for one.
    """

    def __init__(self, limits: BatchLimits, blocks: BlockManager, sizing: Sizing | None = None) -> None:
        self.running: list[Sequence] = []
        self.blocks = blocks
        self._limits = limits
        self._sizing = sizing
        self._num_decoding = 0  # decode batches with segments to publish
        self._waiting: PriorityQueue[Sequence] = PriorityQueue()
        self._encode: PriorityQueue[_Waiting] = PriorityQueue()
        self._asked: dict[str, _Asked] = {}  # requests with queued inputs
        self._num_queued_tokens = 0
        self._free_rows = list(range(limits.max_sequences - 1, -1, -1))
        self._freed_rows: list[int] = []
        self._turns: list[tuple[BatchKind, Callable[[int, int, bool], Batch | None]]] = [
            (BatchKind.PREFILL, self._prefill),
            (BatchKind.ENCODE, self._encode_batch),
            (BatchKind.DECODE, self._decode),
        ]
        self._last_batch_id = 0

    @property
    def num_waiting(self) -> int:
        """Sequences and inputs that hold nothing yet."""
        num_sequences = sum(sequence.state is SequenceState.WAITING for sequence in self._waiting)
        return num_sequences + sum(asked.num_queued for asked in self._asked.values())

    @property
    def has_waiting(self) -> bool:
        """Whether prompts or inputs wait for a batch."""
        return self._num_queued_tokens > 0 or any(sequence.needs_prefill for sequence in self.running)

    def add_sequence(self, sequence: Sequence, priority: int) -> None:
        """Queue a sequence."""
        self._waiting.push(sequence, priority)

    def add_items(self, request_id: str, items: Items[EncodeItem], priority: int, *, opened: int = 0) -> None:
        """Queue the inputs of a discriminative request, the one that was `opened` then."""
        num_tokens = sum(len(item.token_ids) for item in items)
        asked = self._asked[request_id] = _Asked(len(items), num_tokens)
        self._num_queued_tokens += num_tokens
        for number, item in enumerate(items):
            entry = EncodeEntry(request_id=request_id, item=number, opened=opened)
            self._encode.push(_Waiting(entry=entry, item=item, asked=asked), priority)

    def drop_items(self, request_id: str) -> None:
        """Forget the inputs that wait of a request; sequences are dropped by their ends."""
        asked = self._asked.pop(request_id, None)
        if asked is not None:
            self._num_queued_tokens -= asked.num_queued_tokens
            asked.is_dropped = True  # what is queued is skipped when its turn comes

    def next_batch(self, slot: int, *, is_alone: bool = False) -> Batch | None:
        """Form the batch that should run next in a free slot, or None if nothing should.

        Args:
            slot: Its memory on the ranks.
            is_alone: Whether no other batch is in flight; what waits may then be split in two.
        """
        self._admit()
        for turn in self._turns:
            batch = turn[1](self._last_batch_id + 1, slot, is_alone)
            if batch is not None:
                self._last_batch_id += 1
                self._turns.remove(turn)
                self._turns.append(turn)
                return batch
        return None

    def published(self, batch: Batch) -> None:
        """Let the sequences of a batch go on: its last segment is published."""
        self._num_decoding -= batch.kind is BatchKind.DECODE
        for sequence in batch.sequences:
            sequence.in_batch = False

    def release(self, sequence: Sequence) -> None:
        """Take row and blocks of an ended sequence back; none of its batches is in flight any more."""
        sequence.advance(SequenceState.RELEASED)
        self.running.remove(sequence)
        self.blocks.free(sequence.blocks)
        self._free_rows.append(sequence.row)
        if sequence.is_on_ranks:
            self._freed_rows.append(sequence.row)

    def take_freed_rows(self) -> tuple[int, ...]:
        """Return the rows freed since the last call, for the ranks."""
        rows, self._freed_rows = tuple(self._freed_rows), []
        return rows

    def _admit(self) -> None:
        while self._waiting and self._free_rows:
            sequence = self._waiting.peek()
            if sequence.state is not SequenceState.WAITING:
                self._waiting.pop()
                continue
            blocks = self.blocks.allocate(self.blocks.blocks_for(sequence.num_tokens_at_most))
            if blocks is None:
                return
            self._waiting.pop()
            sequence.blocks, sequence.row = blocks, self._free_rows.pop()
            sequence.advance(SequenceState.RUNNING)
            self.running.append(sequence)

    def _enough(self, kind: BatchKind, num_waiting: int, *, is_alone: bool) -> int:
        """Return the tokens after which a batch takes no further sequence or input."""
        budget = self._limits.max_batch_tokens
        if not is_alone or self._sizing is None or num_waiting == 0:
            return budget
        num_tokens = min(num_waiting, budget)
        return -(-num_tokens // self._sizing.num_parts(kind, num_tokens))

    def _prefill(self, batch_id: int, slot: int, is_alone: bool) -> Batch | None:
        left = budget = self._limits.max_batch_tokens
        waiting = [sequence for sequence in self.running if sequence.needs_prefill]
        total = sum(sequence.num_prompt_tokens - sequence.num_prefilled for sequence in waiting)
        enough = self._enough(BatchKind.PREFILL, total if len(waiting) > 1 else 0, is_alone=is_alone)
        chunks: list[tuple[Sequence, int, int]] = []  # sequence, first token, tokens
        for sequence in waiting:
            if budget - left >= enough:
                break
            length = min(sequence.num_prompt_tokens - sequence.num_prefilled, left)
            chunks.append((sequence, sequence.num_prefilled, length))
            left -= length
        if not chunks:
            return None
        batch = prefill_batch(batch_id, slot, chunks)
        for sequence, start, length in chunks:
            sequence.num_prefilled = start + length
            sequence.num_drawn = int(sequence.num_prefilled == sequence.num_prompt_tokens)
            _join(sequence)
        return batch

    def _decode(self, batch_id: int, slot: int, is_alone: bool) -> Batch | None:  # noqa: ARG002 - one interface for all turns
        free = tuple(sequence for sequence in self.running if sequence.can_decode)
        if not free:
            return None
        sequences = free[: self._group_size(free)]
        if not sequences:
            return None
        rows = DecodeRows(
            rows=tuple(sequence.row for sequence in sequences),
            positions=tuple(sequence.next_position for sequence in sequences),
        )
        for sequence in sequences:
            sequence.num_drawn += 1
            _join(sequence)
        self._num_decoding += 1
        start = start_of(batch_id, BatchKind.DECODE, slot, rows)
        return Batch(start=start, num_tokens=len(sequences), sequences=sequences)

    def _group_size(self, free: tuple[Sequence, ...]) -> int:
        """Return how many of the sequences that could decode now should, so that all run in as many batches as pay."""
        if self._sizing is None:
            return len(free)
        total = sum(sequence.is_decoding for sequence in self.running)
        context = sum(sequence.next_position for sequence in free) // len(free)
        num_groups = self._sizing.num_groups(total, context)
        if self._num_decoding >= num_groups:
            return 0  # they join the sequences that decode now, when these are done
        return -(-total // num_groups)

    def _next_input(self) -> _Waiting | None:
        while self._encode and self._encode.peek().asked.is_dropped:
            self._encode.pop()
        return self._encode.peek() if self._encode else None

    def _encode_batch(self, batch_id: int, slot: int, is_alone: bool) -> Batch | None:
        taken: list[_Waiting] = []
        budget = self._limits.max_batch_tokens
        enough = self._enough(BatchKind.ENCODE, self._num_queued_tokens, is_alone=is_alone)
        num_tokens = 0
        while (waiting := self._next_input()) is not None and num_tokens < enough:
            length = len(waiting.item.token_ids)
            if taken and num_tokens + length > budget:
                break
            taken.append(self._encode.pop())
            num_tokens += length
            self._num_queued_tokens -= length
            waiting.asked.num_queued -= 1
            waiting.asked.num_queued_tokens -= length
            if waiting.asked.num_queued == 0:
                del self._asked[waiting.entry.request_id]
        if not taken:
            return None
        rows = encode_rows([waiting.item for waiting in taken])
        return Batch(
            start=start_of(batch_id, BatchKind.ENCODE, slot, rows),
            num_tokens=len(rows.token_ids),
            entries=tuple(waiting.entry for waiting in taken),
        )


def _join(sequence: Sequence) -> None:
    sequence.in_batch = True
    sequence.num_unacknowledged += 1
