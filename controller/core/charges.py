"""What a request has taken of the ranks so far: one account, to which all its batches add."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Charges:
    """Of one request. Nanoseconds."""

    deadline_ns: int | None = None  # of the request, on the controller's monotonic clock
    published_ns: int | None = None  # when its first segment was published
    depth: int = 0  # most batches in flight beside one of its own, itself included
    compute_ns: int = 0
    exposed_ns: int = 0
