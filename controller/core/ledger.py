"""The requests of one group in one epoch: what each has cost so far and what is left of it."""

import heapq
from dataclasses import dataclass, field

from controller.core.charges import Charges
from controller.core.events import RequestAccount
from controller.core.pace import Pace
from controller.core.requests import Request
from controller.core.sequence import Sequence
from liger.domain import BatchKind
from liger.schedule import Logprob


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One request under way."""

    request: Request
    submitted_ns: int
    opened: int  # its place among all requests of the epoch; ids may come again
    sequences: list[Sequence] = field(default_factory=list)  # by sample
    num_items_left: int = 0
    charges: Charges = field(default_factory=Charges)
    first_ns: int | None = None  # first token, or the result
    prompt_logprobs: list[Logprob] = field(default_factory=list)  # as far as they are there

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to give."""
        return self.num_items_left == 0 and all(sequence.finish_reason is not None for sequence in self.sequences)

    def account(self, now_ns: int, pace: Pace) -> RequestAccount:
        """Return what it has cost; what the prefix cache saved is by the ranks' pace."""
        num_cached = self.sequences[0].num_cached if self.sequences else 0
        charges = self.charges
        published = now_ns if charges.published_ns is None else charges.published_ns
        first = now_ns if self.first_ns is None else self.first_ns
        return RequestAccount(
            num_prompt_tokens=self.request.num_tokens,
            num_completion_tokens=sum(len(sequence.output) for sequence in self.sequences),
            queue_ns=published - self.submitted_ns,
            prefill_ns=first - published,
            decode_ns=now_ns - first,
            compute_ns=charges.compute_ns,
            exposed_ns=charges.exposed_ns,
            depth=charges.depth,
            num_cached_tokens=num_cached,
            saved_prefill_ns=round(pace.share_ns(BatchKind.PREFILL, num_cached)),
        )


class Ledger:
    """Entries by request id."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._num_opened = 0
        self._deadlines: list[tuple[int, int, str]] = []  # a heap: deadline, opened, request id; some are over

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._entries

    def open(self, request: Request, now_ns: int) -> Entry:
        """Begin an entry."""
        self._num_opened += 1
        charges = Charges(deadline_ns=request.deadline_ns)
        entry = Entry(request=request, submitted_ns=now_ns, opened=self._num_opened, charges=charges)
        self._entries[request.request_id] = entry
        if request.deadline_ns is not None:
            heapq.heappush(self._deadlines, (request.deadline_ns, entry.opened, request.request_id))
        return entry

    def find(self, request_id: str) -> Entry | None:
        """Return the entry of a request under way."""
        return self._entries.get(request_id)

    def close(self, request_id: str) -> None:
        """End an entry."""
        del self._entries[request_id]

    def all(self) -> tuple[Entry, ...]:
        """Return all entries, oldest first."""
        return tuple(self._entries.values())

    def next_deadline_ns(self) -> int | None:
        """Return the nearest deadline."""
        while self._deadlines and self._entry_of(self._deadlines[0]) is None:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expired(self, now_ns: int) -> tuple[Entry, ...]:
        """Return the entries whose deadline has passed."""
        found = []
        while (deadline_ns := self.next_deadline_ns()) is not None and deadline_ns <= now_ns:
            entry = self._entry_of(heapq.heappop(self._deadlines))
            assert entry is not None, "the nearest deadline is of a request under way"
            found.append(entry)
        return tuple(found)

    def _entry_of(self, deadline: tuple[int, int, str]) -> Entry | None:
        _, opened, request_id = deadline
        entry = self._entries.get(request_id)
        return entry if entry is not None and entry.opened == opened else None
