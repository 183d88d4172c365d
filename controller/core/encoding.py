"""The inputs of discriminative requests that wait, by task, and the encode batches that they become."""

from collections import Counter
from collections.abc import Sequence as Items
from dataclasses import dataclass

from controller.core.batch import Batch, EncodeEntry
from controller.core.charges import Charges
from controller.core.pace import Pace
from controller.core.queues import PriorityQueue
from controller.core.requests import EncodeItem
from controller.core.rows import encode_rows, start_of
from controller.core.sharing import Sharing
from liger.domain import BatchKind, Task


@dataclass(slots=True, eq=False)
class _Asked:
    """A discriminative request, as its queued inputs see it."""

    task: Task
    priority: int
    num_queued: int
    num_queued_tokens: int
    is_dropped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    entry: EncodeEntry
    item: EncodeItem
    asked: _Asked


class Encoding:
    """Queues of inputs.

    Args:
        sharing: Says which task's inputs go first.
        pace: Predicts what inputs take.
    """

    def __init__(self, sharing: Sharing, pace: Pace) -> None:
        self.num_queued_tokens = 0
        self.num_queued: Counter[Task] = Counter()  # inputs
        self._sharing = sharing
        self._pace = pace
        self._queues: dict[Task, PriorityQueue[_Waiting]] = {task: PriorityQueue() for task in Task}
        self._asked: dict[str, _Asked] = {}  # requests with queued inputs
        self._queued_tokens: Counter[tuple[Task, int]] = Counter()  # by task and minus the priority

    @property
    def tasks(self) -> set[Task]:
        """Tasks with inputs that wait."""
        return {task for task, count in self.num_queued.items() if count}

    def add(
        self,
        request_id: str,
        task: Task,
        items: Items[EncodeItem],
        priority: int,
        *,
        opened: int,
        charges: Charges,
    ) -> None:
        """Queue the inputs of a request, the one that was `opened` then; they add to its charges."""
        num_tokens = sum(len(item.token_ids) for item in items)
        asked = self._asked[request_id] = _Asked(task, priority, len(items), num_tokens)
        self.num_queued_tokens += num_tokens
        self.num_queued[task] += len(items)
        self._queued_tokens[task, -priority] += num_tokens
        for number, item in enumerate(items):
            entry = EncodeEntry(request_id=request_id, item=number, opened=opened, charges=charges)
            self._queues[task].push(_Waiting(entry=entry, item=item, asked=asked), (-priority, opened, number))

    def num_tokens_ahead(self, task: Task, priority: int) -> int:
        """Return the tokens that wait of a task, and go before a new input."""
        return sum(
            tokens for (other, order), tokens in self._queued_tokens.items() if other is task and order <= -priority
        )

    def drop(self, request_id: str) -> None:
        """Forget the inputs that wait of a request."""
        asked = self._asked.pop(request_id, None)
        if asked is not None:
            self.num_queued_tokens -= asked.num_queued_tokens
            self.num_queued[asked.task] -= asked.num_queued
            self._queued_tokens[asked.task, -asked.priority] -= asked.num_queued_tokens
            asked.is_dropped = True  # what is queued is skipped when its turn comes
            if len(self._queues[asked.task]) > 2 * self.num_queued[asked.task]:
                self._queues[asked.task].keep(lambda waiting: not waiting.asked.is_dropped)

    def batch(self, batch_id: int, slot: int, *, enough: int, most: int) -> Batch | None:
        """Form a batch of about `enough` and at most `most` tokens from all tasks' inputs; None if there are none.

        Each input is of the task that is furthest behind, counting those that were taken before it. A longer input runs
        alone.
        """
        taken: list[_Waiting] = []
        num_tokens = 0
        behind = {task: self._sharing.behind_with_due(task) for task in self.tasks}
        while behind and num_tokens < enough:
            task = min(behind, key=lambda each: (behind[each], each))
            waiting = self._next(task)
            if waiting is None:
                del behind[task]
                continue
            length = len(waiting.item.token_ids)
            if taken and num_tokens + length > most:
                break
            taken.append(self._take(task))
            num_tokens += length
            behind[task] += self._pace.batch_ns(BatchKind.ENCODE, length) / self._sharing.weights[task]
        return _batch(batch_id, slot, taken) if taken else None

    def _next(self, task: Task) -> _Waiting | None:
        queue = self._queues[task]
        while queue and queue.peek().asked.is_dropped:
            queue.pop()
        return queue.peek() if queue else None

    def _take(self, task: Task) -> _Waiting:
        waiting = self._queues[task].pop()
        length = len(waiting.item.token_ids)
        self.num_queued_tokens -= length
        self.num_queued[task] -= 1
        self._queued_tokens[task, -waiting.asked.priority] -= length
        waiting.asked.num_queued -= 1
        waiting.asked.num_queued_tokens -= length
        if waiting.asked.num_queued == 0:
            del self._asked[waiting.entry.request_id]
        return waiting


def _batch(batch_id: int, slot: int, taken: Items[_Waiting]) -> Batch:
    rows = encode_rows([waiting.item for waiting in taken])
    lengths: Counter[Task] = Counter()
    for waiting in taken:
        lengths[waiting.asked.task] += len(waiting.item.token_ids)
    total = len(rows.token_ids)
    return Batch(
        start=start_of(batch_id, BatchKind.ENCODE, slot, rows),
        num_tokens=total,
        tasks={task: length / total for task, length in lengths.items()},
        entries=tuple(waiting.entry for waiting in taken),
    )
