"""The sequences of one group: which wait, which run, and what their next batches are (continuous batching)."""

from collections import Counter
from collections.abc import Iterator
from operator import attrgetter
from typing import Final

from controller.core.batch import Batch
from controller.core.limits import MAX_START_BYTES, BatchLimits, Sizing
from controller.core.queues import PriorityQueue
from controller.core.rows import Chunk, decode_batch, prefill_batch
from controller.core.sequence import Sequence, SequenceState
from controller.core.sequence_memory import Appends, SequenceMemory
from liger.domain import BatchKind

_ORDER: Final = attrgetter("order")
_FEW: Final = 16  # sequences that stand for all where a mean need not be exact
_MOST_LATER: Final = 64  # sequences that are passed over when others are admitted


class Generation:
    """Queues, admits and batches sequences.

    Args:
        limits: Bounds of batches.
        memory: Rows and blocks.
        sizing: Says in how many batches sequences should decode; None for one.
    """

    def __init__(self, limits: BatchLimits, memory: SequenceMemory, sizing: Sizing | None) -> None:
        self.num_queued_tokens = 0
        self._limits = limits
        self._memory = memory
        self._sizing = sizing
        self._waiting: PriorityQueue[Sequence] = PriorityQueue()
        self._parked: list[Sequence] = []  # preempted while their clients were far behind
        self._prefilling: list[Sequence] = []
        self._num_decoding = 0  # decode batches with segments to publish
        self._num_dead = 0  # in the queue
        self._queued_tokens: Counter[int] = Counter()  # by minus the priority

    @property
    def running(self) -> list[Sequence]:
        """Sequences that take part in batches."""
        return self._memory.running

    @property
    def num_waiting(self) -> int:
        """Sequences that hold nothing yet."""
        leaders = [*(each for each in self._waiting if each.is_queued), *self._parked, *self._memory.preempted]
        followers = [each for leader in (*leaders, *self._live_prefills()) for each in leader.followers]
        return len(leaders) + sum(each.state is SequenceState.WAITING for each in followers)

    @property
    def num_tokens_to_prefill(self) -> int:
        """Tokens that wait to be computed by chunks."""
        return self.num_queued_tokens + sum(each.num_to_prefill - each.num_prefilled for each in self._live_prefills())

    def num_tokens_ahead(self, priority: int) -> int:
        """Return the tokens that are computed by chunks before those of a new prompt."""
        queued = sum(tokens for order, tokens in self._queued_tokens.items() if order <= -priority)
        return queued + self.num_tokens_to_prefill - self.num_queued_tokens

    @property
    def num_prefilling(self) -> int:
        """Sequences that run and have chunks to be computed."""
        return sum(1 for _ in self._live_prefills())

    @property
    def has_prefill(self) -> bool:
        """Whether prompts wait for a batch."""
        return self.num_queued_tokens > 0 or any(each.needs_prefill for each in self._prefilling)

    def add(self, leader: Sequence, followers: list[Sequence]) -> None:
        """Queue the samples of a request; followers begin with the leader's first token."""
        leader.followers = followers
        self._queue(leader)

    def ended(self, sequence: Sequence) -> None:
        """Forget a sequence whose end is known; what it holds comes back once its batches are acknowledged."""
        if sequence.is_queued:
            self._unqueue(sequence)
            self._num_dead += 1
            if self._num_dead > len(self._waiting) // 2:
                self._waiting.keep(lambda each: each.is_queued)
                self._num_dead = 0
        for waiting in (self._parked, self._memory.preempted):
            if sequence in waiting:
                waiting.remove(sequence)
        if sequence.state is SequenceState.ENDED:
            self._memory.leave(sequence)
        followers = [each for each in sequence.followers if each.state is SequenceState.WAITING]
        sequence.followers = []
        if followers:
            self.add(followers[0], followers[1:])

    def read(self, sequence: Sequence, num_tokens: int) -> None:
        """Note how much of a sequence its client has."""
        sequence.num_read = max(sequence.num_read, min(num_tokens, len(sequence.output)))
        if sequence in self._parked and not self._is_far_ahead(sequence):
            self._parked.remove(sequence)
            self._queue(sequence)

    def admit(self) -> None:
        """Let sequences that wait run, as long as there is memory."""
        self._prefilling = list(self._live_prefills())
        while self._memory.preempted:
            sequence = self._memory.preempted.pop()
            if self._is_far_ahead(sequence):
                self._parked.append(sequence)
            else:
                self._queue(sequence)
        later: list[Sequence] = []  # what they begin with is being computed: they will find it
        while self._waiting and len(later) < _MOST_LATER:
            sequence = self._waiting.peek()
            if not sequence.is_queued:
                self._waiting.pop()
                self._num_dead -= 1
            elif self._memory.is_being_computed(sequence):
                later.append(self._waiting.pop())
            elif self._memory.admit(sequence):
                self._unqueue(self._waiting.pop())
                self._prefilling.append(sequence)
            elif not self._displace():
                break
        for sequence in later:
            self._waiting.push(sequence, sequence.order)

    def prefill(self, batch_id: int, slot: int, *, enough: int, most: int) -> Batch | None:
        """Form a batch of chunks, of about `enough` and at most `most` tokens; None if there is nothing to do now."""
        left, told = most, 0  # told: bytes of the sequences that begin
        appends, chunks = Appends(), list[Chunk]()
        for sequence in sorted(self._prefilling, key=_ORDER):
            told += 0 if sequence.is_on_ranks else sequence.start_bytes * (1 + len(sequence.followers))
            if most - left >= enough or (chunks and told > MAX_START_BYTES):
                break
            start = sequence.num_prefilled
            stop = min(sequence.num_to_prefill, start + left)
            if not sequence.needs_prefill or not self._reserve(sequence, start, stop, appends):
                continue
            left -= stop - start
            sequence.num_prefilled = stop
            forks = self._draw_first(sequence) if stop == sequence.num_to_prefill else []
            chunks.append(Chunk(sequence=sequence, start=start, stop=stop, forks=tuple(forks)))
            for each in (sequence, *forks):
                _join(each)
        return prefill_batch(batch_id, slot, chunks, appends) if chunks else None

    def decode(self, batch_id: int, slot: int, *, beside_others: bool) -> Batch | None:
        """Form a batch of the next token of each sequence that can go on; None if none should now."""
        decoding = [each for each in self._memory.running if self._can_draw(each)]
        free = sorted([each for each in decoding if not each.in_batch], key=_ORDER)
        size = self._group_size(free, len(decoding), beside_others=beside_others) if free else 0
        appends, taken, positions = Appends(), list[Sequence](), list[int]()
        for sequence in free:
            if len(taken) == size:
                break
            place = sequence.next_position
            if place < sequence.num_ready or (
                sequence.state is SequenceState.RUNNING and self._reserve(sequence, place, place + 1, appends)
            ):
                taken.append(sequence)
                positions.append(place)
        if not taken:
            return None
        for sequence in taken:
            sequence.num_drawn += 1
            _join(sequence)
        self._num_decoding += 1
        return decode_batch(batch_id, slot, taken, positions, appends)

    def published(self, *, is_decode: bool) -> None:
        """Count a decode batch off whose last segment is published."""
        self._num_decoding -= is_decode

    def can_decode(self) -> bool:
        """Whether any sequence can go on."""
        return any(not each.in_batch and self._can_draw(each) for each in self._memory.running)

    @property
    def is_decoding(self) -> bool:
        """Whether any sequence decodes now or can."""
        return self._num_decoding > 0 or self.can_decode()

    @property
    def ready_kinds(self) -> set[BatchKind]:
        """Kinds of batches that could be formed; what is queued may have no memory, and counts only once it runs."""
        kinds = {BatchKind.PREFILL} if any(each.needs_prefill for each in self._prefilling) else set[BatchKind]()
        return kinds | ({BatchKind.DECODE} if self.can_decode() else set())

    def _reserve(self, sequence: Sequence, start: int, stop: int, appends: Appends) -> bool:
        """Get the blocks for some of a sequence's tokens, also of sequences that wait for their clients."""
        while not self._memory.reserve(sequence, start, stop, appends):
            if not self._displace():
                return False
        return True

    def _displace(self) -> bool:
        """Have the newest of those that wait for their clients, if there is one, give its memory to others now."""
        idle = [each for each in self.running if not each.num_unacknowledged and self._is_far_ahead(each)]
        if idle:
            self._memory.preempt(max(idle, key=lambda each: each.order))
        return bool(idle)

    def _draw_first(self, sequence: Sequence) -> list[Sequence]:
        """Count the first token of a sequence and of its followers; return those that begin with it."""
        sequence.num_drawn += 1
        waiting = [each for each in sequence.followers if each.state is SequenceState.WAITING]
        sequence.followers = []
        count = self._memory.num_free_rows
        for follower in waiting[:count]:
            self._memory.fork(sequence, follower)
            follower.num_drawn = 1
        if waiting[count:]:
            self.add(waiting[count], waiting[count + 1 :])
        return waiting[:count]

    def _queue(self, sequence: Sequence) -> None:
        sequence.is_queued = True
        sequence.num_queued_tokens = self._memory.num_to_compute(sequence)
        self.num_queued_tokens += sequence.num_queued_tokens
        self._queued_tokens[sequence.order[0]] += sequence.num_queued_tokens
        self._waiting.push(sequence, sequence.order)

    def _unqueue(self, sequence: Sequence) -> None:
        sequence.is_queued = False
        self.num_queued_tokens -= sequence.num_queued_tokens
        self._queued_tokens[sequence.order[0]] -= sequence.num_queued_tokens

    def _can_draw(self, sequence: Sequence) -> bool:
        """Whether tokens of a running sequence are left to draw now, once it is in no batch; asked for every token."""
        return (
            sequence.num_prefilled == sequence.num_to_prefill
            and sequence.num_drawn < sequence.work.max_tokens
            and sequence.num_drawn - sequence.num_read < self._limits.max_unread_tokens
        )

    def _is_far_ahead(self, sequence: Sequence) -> bool:
        return sequence.num_drawn - sequence.num_read >= self._limits.max_unread_tokens

    def _live_prefills(self) -> Iterator[Sequence]:
        return (
            each
            for each in self._prefilling
            if each.state is SequenceState.RUNNING and each.num_prefilled < each.num_to_prefill
        )

    def _group_size(self, free: list[Sequence], total: int, *, beside_others: bool) -> int:
        """Return how many of the sequences that could decode now should, so that all run in as many batches as pay.

        Args:
            free: Those that could.
            total: Of them and of those that decode now.
            beside_others: Whether other work is there.
        """
        if self._sizing is None:
            return len(free)
        some = free[:: -(-len(free) // _FEW)]
        context = sum(sequence.next_position for sequence in some) // len(some)
        num_groups = self._sizing.num_groups(total, context, beside_others=beside_others)
        size = -(-total // num_groups)
        is_few = 2 * len(free) < size  # weights are read once more for them, and groups would stay uneven
        if self._num_decoding >= num_groups or (self._num_decoding and is_few):
            return 0  # they join the sequences that decode now, when these are done
        return size


def _join(sequence: Sequence) -> None:
    sequence.in_batch = True
    sequence.num_unacknowledged += 1
