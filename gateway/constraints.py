"""Checks of what outputs must be, by compiling it: slow for hostile texts, so a few at once and off the event loop."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gateway.validation.structured import to_constraint
from liger.domain import Constraint
from liger.rpc.sampling import from_constraint

MOST_AT_ONCE: Final = 2


class ConstraintChecker:
    """Compiles constraints as the ranks will.

    On threads of its own: a check goes on when its call is cancelled, and must not take those that tokenising needs.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="constraints")

    async def checked(self, constraint: Constraint) -> Constraint:
        """Return the constraint if ranks will be able to compile it.

        Raises:
            InvalidRequestError: They will not; says why and where.
        """
        message = from_constraint(constraint)
        assert message is not None
        return await asyncio.get_running_loop().run_in_executor(self._threads, to_constraint, message)

    def close(self) -> None:
        """Check no more; the threads end after the checks that they have begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)
