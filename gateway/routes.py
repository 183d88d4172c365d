"""Where events go: the inboxes of the requests under way, by request id, and by the numbers of samples' streams."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.inbox import Inbox


class Route(NamedTuple):
    """Where one sample's tokens go."""

    request_id: str
    sample: int
    inbox: Inbox


class Routes:
    """The inboxes of one gateway. No number is given twice, so that what comes late reaches nobody else."""

    def __init__(self) -> None:
        self._inboxes: dict[str, Inbox] = {}
        self._numbers: dict[str, range] = {}  # of the samples' streams
        self._routes: dict[int, Route] = {}
        self._next_number = 1

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._inboxes

    def give_numbers(self, num_samples: int) -> range:
        """Return numbers for the streams of a request's samples."""
        numbers = range(self._next_number, self._next_number + num_samples)
        self._next_number = numbers.stop
        return numbers

    def add(self, request_id: str, inbox: Inbox, numbers: range) -> None:
        """Add a request, whose samples' streams have numbers of their own."""
        self.remove(request_id)
        self._inboxes[request_id], self._numbers[request_id] = inbox, numbers
        for sample, number in enumerate(numbers):
            self._routes[number] = Route(request_id, sample, inbox)

    def find(self, request_id: str) -> Inbox | None:
        """Return a request's inbox."""
        return self._inboxes.get(request_id)

    def find_stream(self, number: int) -> Route | None:
        """Return where a stream's tokens go."""
        return self._routes.get(number)

    def remove(self, request_id: str) -> Inbox | None:
        """Forget a request and return its inbox; None if there was none."""
        for number in self._numbers.pop(request_id, ()):
            del self._routes[number]
        return self._inboxes.pop(request_id, None)

    def clear(self) -> Sequence[Inbox]:
        """Forget all and return their inboxes."""
        inboxes = list(self._inboxes.values())
        for kept in (self._inboxes, self._numbers, self._routes):
            kept.clear()
        return inboxes
