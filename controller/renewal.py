"""An operator's wish that a group's ranks measure their model anew."""

import asyncio

from liger.errors import GroupFailedError


class RenewalAskedError(GroupFailedError):
    """The epoch ends so that the ranks measure anew in the next one."""


class Renewal:
    """Ends an epoch, because ranks measure only at the begin of one; is wanted until they have."""

    def __init__(self) -> None:
        self.is_wanted = False
        self._asked = asyncio.Event()

    @property
    def reason(self) -> str:
        """Why an epoch ends: by this, or by itself."""
        return "measures anew" if self.is_wanted else "lost a rank"

    def ask(self) -> None:
        """Let the epoch end."""
        self.is_wanted = True
        self._asked.set()

    def done(self) -> None:
        """Note that the ranks have measured."""
        self.is_wanted = False

    async def watch(self) -> None:
        """Watch over one epoch.

        Raises:
            RenewalAskedError: It is to end.
        """
        self._asked.clear()
        await self._asked.wait()
        raise RenewalAskedError("the ranks are to measure anew")
