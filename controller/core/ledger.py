"""The requests of one group in one epoch: what each has cost so far and what is left of it."""

from dataclasses import dataclass, field

from controller.core.events import RequestAccount
from controller.core.requests import EncodeWork, GenerateWork, Request
from controller.core.sequence import Sequence


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One request under way."""

    request: Request
    submitted_ns: int
    opened: int  # its place among all requests of the epoch; ids may come again
    sequences: list[Sequence] = field(default_factory=list)  # by sample
    num_items_left: int = 0
    num_given: int = 0  # output tokens given out
    published_ns: int | None = None  # first segment
    first_ns: int | None = None  # first token, or the result
    compute_ns: int = 0
    exposed_ns: int = 0
    depth: int = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to give."""
        return self.num_items_left == 0 and all(sequence.finish_reason is not None for sequence in self.sequences)

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt or of all inputs."""
        match self.request.work:
            case GenerateWork(prompt_token_ids=ids):
                return len(ids)
            case EncodeWork(items=items):
                return sum(len(item.token_ids) for item in items)

    def account(self, now_ns: int) -> RequestAccount:
        """Return what it has cost."""
        published = now_ns if self.published_ns is None else self.published_ns
        first = now_ns if self.first_ns is None else self.first_ns
        return RequestAccount(
            num_prompt_tokens=self.num_prompt_tokens,
            num_completion_tokens=self.num_given,
            queue_ns=published - self.submitted_ns,
            prefill_ns=first - published,
            decode_ns=now_ns - first,
            compute_ns=self.compute_ns,
            exposed_ns=self.exposed_ns,
            depth=self.depth,
        )


class Ledger:
    """Entries by request id."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._num_opened = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._entries

    def open(self, request: Request, now_ns: int) -> Entry:
        """Begin an entry."""
        self._num_opened += 1
        entry = Entry(request=request, submitted_ns=now_ns, opened=self._num_opened)
        self._entries[request.request_id] = entry
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
        deadlines = (entry.request.deadline_ns for entry in self._entries.values())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def expired(self, now_ns: int) -> tuple[Entry, ...]:
        """Return the entries whose deadline has passed."""
        return tuple(
            entry
            for entry in self._entries.values()
            if entry.request.deadline_ns is not None and entry.request.deadline_ns <= now_ns
        )
