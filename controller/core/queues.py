"""A queue in which what has the lower order goes first, and of equals what came first."""

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
Order = tuple[int, int, int]
"""Minus the priority, the request's arrival, the place in it: higher priority first, then first come first served."""


class PriorityQueue(Generic[ItemT]):
    """Lower order first, then as pushed."""

    def __init__(self) -> None:
        self._heap: list[tuple[Order, int, ItemT]] = []
        self._pushes = count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, item: ItemT, order: Order) -> None:
        """Queue an item."""
        heapq.heappush(self._heap, (order, next(self._pushes), item))

    def peek(self) -> ItemT:
        """Return the item that goes next and leave it."""
        return self._heap[0][2]

    def pop(self) -> ItemT:
        """Return the item that goes next and take it off."""
        return heapq.heappop(self._heap)[2]

    def keep(self, is_wanted: Callable[[ItemT], bool]) -> None:
        """Drop all items but those that are wanted."""
        self._heap = [entry for entry in self._heap if is_wanted(entry[2])]
        heapq.heapify(self._heap)

    def __iter__(self) -> Iterator[ItemT]:
        return (item for _, _, item in self._heap)
