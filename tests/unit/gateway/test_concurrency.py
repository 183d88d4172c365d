"""Many calls at once give what they give one by one."""

import asyncio
from typing import Any

from liger.client import Delta
from liger.errors import LigerError
from tests.unit.gateway import folders
from tests.unit.gateway.conftest import Gateway

TEXTS = ["The quick brown fox", "emoji 😀😀 👩‍👩‍👧", "你好世界", "the lazy dog END here"]


async def one_call(gateway: Gateway, number: int) -> Any:
    """Make the call of a number: streams, embeddings, classifications, scores, errors."""
    client, text = gateway.client, TEXTS[number % len(TEXTS)]
    match number % 8:
        case 0 | 1:
            return await client.generate("chat", text, stop="END").text()
        case 2:
            stream = client.generate("chat", text, n=2, logprobs=1)
            deltas = [event async for event in stream.events() if isinstance(event, Delta)]
            texts = ["".join(delta.text for delta in deltas if delta.index == index) for index in (0, 1)]
            return texts, stream.finished
        case 3:
            return (await client.embed("embedder", ["a b", "c", str(number)])).embeddings
        case 4:
            return (await client.classify("sentiment", "a b")).classifications
        case 5:
            return (await client.score("chat", [(text, " fox")])).scores
        case 6:
            return (await client.rerank("ranker", "a", ["b", "c"])).ranking
        case _:
            try:
                return await client.generate("chat", text, n=65).text()
            except LigerError as error:
                return error.message


async def test_32_mixed_calls_at_once_answer_as_one_by_one(gateway: Gateway) -> None:
    for text in TEXTS:
        ids = folders.byte_level().encode(text).ids
        gateway.controller.continuations[tuple(ids)] = [*ids, *ids]
    alone = [await one_call(gateway, number) for number in range(32)]
    together = await asyncio.gather(*(one_call(gateway, number) for number in range(32)))
    assert together == alone


async def test_cancelled_calls_leave_their_neighbours_alone(gateway: Gateway) -> None:
    async def cancelled(number: int) -> None:
        stream = gateway.client.generate("chat", TEXTS[number % len(TEXTS)])
        async for _ in stream.events():
            await stream.close()
            break

    async def kept(number: int) -> str:
        return await gateway.client.generate("chat", TEXTS[number % len(TEXTS)]).text()

    calls = [cancelled(number) if number % 2 else kept(number) for number in range(32)]
    texts = await asyncio.gather(*calls)
    assert [text for text in texts if text is not None] == [TEXTS[number % len(TEXTS)] for number in range(0, 32, 2)]
