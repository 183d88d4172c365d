"""A queue by priority, first come first served inside one."""

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class PriorityQueue(Generic[ItemT]):
    """Higher priority first, then in the order of arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, ItemT]] = []
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, item: ItemT, priority: int) -> None:
        """Queue an item."""
        heapq.heappush(self._heap, (-priority, next(self._arrivals), item))

    def peek(self) -> ItemT:
        """Return the item that goes next and leave it."""
        return self._heap[0][2]

    def pop(self) -> ItemT:
        """Return the item that goes next and take it off."""
        return heapq.heappop(self._heap)[2]

    def __iter__(self) -> Iterator[ItemT]:
        return (item for _, _, item in self._heap)
