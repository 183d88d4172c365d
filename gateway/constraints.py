"""Checks of what outputs must be, by compiling it: slow for hostile texts, so a few at once and off the event loop."""

import asyncio
from typing import Final

from gateway.validation.structured import to_constraint
from liger.domain import Constraint
from liger.rpc.sampling import from_constraint

MOST_AT_ONCE: Final = 2  # of the threads that tokenising needs too


class ConstraintChecker:
    """Compiles constraints as the ranks will."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def checked(self, constraint: Constraint) -> Constraint:
        """Return the constraint if ranks will be able to compile it.

        Raises:
            InvalidRequestError: They will not; says why and where.
        """
        message = from_constraint(constraint)
        assert message is not None
        async with self._turns:
            return await asyncio.to_thread(to_constraint, message)
