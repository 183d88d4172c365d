"""Two sides of a conversation: what is sent goes on only as long as what is read does."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

ItemT = TypeVar("ItemT")


async def until_ended(items: AsyncIterator[ItemT], reader: asyncio.Task[None]) -> AsyncIterator[ItemT]:
    """Give items until the reader ends or is cancelled; raise what it raised."""
    while True:
        following = asyncio.ensure_future(anext(items))
        try:
            await asyncio.wait({following, reader}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            following.cancel()
            raise
        if not following.done():
            following.cancel()
            if not reader.cancelled():
                reader.result()
            return
        try:
            item = following.result()
        except StopAsyncIteration:
            return
        yield item
