"""Decides what runs next: continuous batching of sequences, and encode batches beside them on the same weights.

Tasks share the ranks by their weights (`sharing`): a free slot goes to the task that is furthest behind, so that none
starves. Inside a task, higher priority goes first, then first come first served.
"""

from collections import Counter
from collections.abc import Collection
from collections.abc import Sequence as Items

from controller.core.batch import Batch
from controller.core.block_manager import BlockManager
from controller.core.charges import Charges
from controller.core.encoding import Encoding
from controller.core.generation import Generation
from controller.core.limits import BatchLimits, Sizing
from controller.core.pace import Pace
from controller.core.requests import EncodeItem
from controller.core.sequence import Sequence
from controller.core.sequence_memory import SequenceMemory
from controller.core.sharing import Sharing
from liger.domain import BatchKind, Task
from liger.views import TaskShare


class BatchManager:
    """The queues and running sequences of one group in one epoch.

    Args:
        limits: Bounds of batches.
        blocks: KV blocks.
        sizing: Says whether one batch or two pay; None for one.
    """

    def __init__(self, limits: BatchLimits, blocks: BlockManager, sizing: Sizing | None = None) -> None:
        self.blocks = blocks
        self.memory = SequenceMemory(limits.max_sequences, blocks)
        self.pace = Pace()
        self.sharing = Sharing(limits.weights, self.pace)
        self._limits = limits
        self._sizing = sizing
        self._generation = Generation(limits, self.memory, sizing)
        self._encoding = Encoding(self.sharing, self.pace)
        self._last_batch_id = 0
        self._in_flight: list[Batch] = []  # segments are left to publish

    @property
    def running(self) -> list[Sequence]:
        """Sequences that hold rows and blocks and take part in batches."""
        return self._generation.running

    @property
    def num_waiting(self) -> int:
        """Sequences and inputs that hold nothing yet."""
        return self._generation.num_waiting + self._encoding.num_queued.total()

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens of prompts and inputs that wait to be computed."""
        return self._generation.num_tokens_to_prefill + self._encoding.num_queued_tokens

    @property
    def max_batch_tokens(self) -> int:
        """Tokens of a prefill or encode batch, at most."""
        return self._limits.max_batch_tokens

    def num_tokens_ahead(self, task: Task, priority: int) -> int:
        """Return the tokens that are computed before those of a new request."""
        if task is Task.GENERATE:
            return self._generation.num_tokens_ahead(priority)
        return self._encoding.num_tokens_ahead(task, priority)

    @property
    def has_waiting(self) -> bool:
        """Whether prompts or inputs wait for a batch."""
        return self._encoding.num_queued_tokens > 0 or self._generation.has_prefill

    @property
    def is_decoding(self) -> bool:
        """Whether any sequence has tokens left to draw and its prompt behind it."""
        return self._generation.is_decoding

    @property
    def absent_kinds(self) -> set[BatchKind]:
        """Kinds of batches for which there is work, and none of which is in flight."""
        kinds = set[BatchKind]()
        if self._encoding.tasks:
            kinds.add(BatchKind.ENCODE)
        return (kinds | self._generation.ready_kinds) - {batch.kind for batch in self._in_flight}

    def add_samples(self, samples: Items[Sequence]) -> None:
        """Queue the samples of a request: the prompt is computed once, for all of them."""
        self._generation.add(samples[0], list(samples[1:]))

    def add_items(
        self,
        request_id: str,
        task: Task,
        items: Items[EncodeItem],
        priority: int,
        *,
        opened: int = 0,
        charges: Charges | None = None,
    ) -> None:
        """Queue the inputs of a discriminative request, the one that was `opened` then; they add to its charges."""
        self._encoding.add(request_id, task, items, priority, opened=opened, charges=charges or Charges())

    def drop_items(self, request_id: str) -> None:
        """Forget the inputs that wait of a request; sequences are dropped by their ends."""
        self._encoding.drop(request_id)

    def ended(self, sequence: Sequence) -> None:
        """Take back what a sequence held whose end is known, once none of its batches is in flight."""
        self._generation.ended(sequence)

    def settled(self, sequences: Items[Sequence], num_computed: Items[int]) -> None:
        """Note that a batch of sequences is acknowledged, and so the keys and values of their first tokens."""
        size = self.blocks.block_size
        for sequence, count in zip(sequences, num_computed, strict=True):
            sequence.num_unacknowledged -= 1
            if count >= (sequence.num_findable + 1) * size and sequence.blocks:  # another block is full: now and then
                self.memory.publish(sequence, count)

    def read(self, sequence: Sequence, num_tokens: int) -> None:
        """Note how much of a sequence its client has."""
        self._generation.read(sequence, num_tokens)

    def next_batch(
        self, slot: int, kinds: Collection[BatchKind] = tuple(BatchKind), *, is_alone: bool = False
    ) -> Batch | None:
        """Form the batch that should run next in a free slot, or None if nothing should.

        Args:
            slot: Its memory on the ranks.
            kinds: What it may be.
            is_alone: Whether no other batch is in flight; what waits may then be split in two.
        """
        self._generation.admit()
        self.sharing.wake(*self._active())
        ready = self._encoding.tasks if BatchKind.ENCODE in kinds else set[Task]()
        ready |= {Task.GENERATE} if self._generation.ready_kinds else set()
        for task in self.sharing.in_turn(ready):
            batch = self._generate(slot, kinds, is_alone) if task is Task.GENERATE else self._encode(slot, is_alone)
            if batch is not None:
                self._last_batch_id += 1
                self._in_flight.append(batch)
                self.sharing.formed(batch)
                return batch
        return None

    def started(self, batch: Batch) -> None:
        """Let go of what a batch held until its start was published."""
        self.memory.told(batch.copied)

    def published(self, batch: Batch) -> None:
        """Let the sequences of a batch go on: its last segment is published."""
        self._in_flight.remove(batch)
        self._generation.published(is_decode=batch.kind is BatchKind.DECODE)
        for sequence in batch.sequences:
            sequence.in_batch = False

    def shares(self) -> tuple[TaskShare, ...]:
        """Return how the tasks that had work share the ranks."""
        taken = self.sharing.taken_ns
        total = sum(taken.values()) or 1.0
        waiting = self._encoding.num_queued + Counter({Task.GENERATE: self._generation.num_waiting})
        return tuple(
            TaskShare(task=task, weight=weight, share=max(0.0, taken[task] / total), num_waiting=waiting[task])
            for task, weight in self.sharing.weights.items()
            if taken[task] or waiting[task]
        )

    def _active(self) -> tuple[set[Task], set[BatchKind]]:
        """Return the tasks that run or could, and of generation the kinds of batches; what cannot claims nothing."""
        tasks = self._encoding.tasks | {task for batch in self._in_flight for task in batch.tasks}
        flying = {batch.kind for batch in self._in_flight} - {BatchKind.ENCODE}
        kinds = flying | self._generation.ready_kinds
        return tasks | ({Task.GENERATE} if kinds else set()), kinds

    def _generate(self, slot: int, kinds: Collection[BatchKind], is_alone: bool) -> Batch | None:
        for kind in filter(kinds.__contains__, self.sharing.kinds_in_turn()):
            if kind is BatchKind.DECODE:
                others = bool(self._encoding.tasks) or BatchKind.PREFILL in self._generation.ready_kinds
                others |= any(each.kind is not kind for each in self._in_flight)
                batch = self._generation.decode(self._last_batch_id + 1, slot, beside_others=others)
            else:
                splits = self._generation.num_prefilling > 1  # one prompt's chunks follow one another
                waiting = self._generation.num_tokens_to_prefill if splits else 0
                enough, most = self._sizes(kind, waiting, is_alone=is_alone)
                batch = self._generation.prefill(self._last_batch_id + 1, slot, enough=enough, most=most)
            if batch is not None:
                return batch
        return None

    def _encode(self, slot: int, is_alone: bool) -> Batch | None:
        enough, most = self._sizes(BatchKind.ENCODE, self._encoding.num_queued_tokens, is_alone=is_alone)
        return self._encoding.batch(self._last_batch_id + 1, slot, enough=enough, most=most)

    def _sizes(self, kind: BatchKind, num_waiting: int, *, is_alone: bool) -> tuple[int, int]:
        """Return after how many tokens a batch takes no more, and how many it may have at most.

        Beside sequences that decode, a batch is so small that they get their turn after a window.
        """
        most = self._limits.max_batch_tokens
        if self._generation.is_decoding:
            beside = self._sizing.tokens_beside(kind) if self._sizing else None
            most = min(most, self._limits.max_beside_tokens if beside is None else beside)
        if not is_alone or self._sizing is None or num_waiting == 0:
            return most, most
        num_tokens = min(num_waiting, most)
        return -(-num_tokens // self._sizing.num_parts(kind, num_tokens)), most
