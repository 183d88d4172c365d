"""Waits between attempts that fail again and again."""

import asyncio
from contextlib import suppress


class Backoff:
    """Waits twice as long after every failure.

    Args:
        first_s: The first wait, in seconds.
        most_s: The longest, in seconds.
    """

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def reset(self) -> None:
        """Begin again with the first wait."""
        self._next_s = self._first_s

    async def wait(self, sooner: asyncio.Event) -> None:
        """Wait after a failure, or until something happens."""
        delay_s, self._next_s = self._next_s, min(2 * self._next_s, self._most_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await sooner.wait()
