"""32 mixed calls at once give the answers that they give one by one."""

import asyncio
from contextlib import aclosing

import pytest

from liger.client import AsyncClient, Message
from liger.errors import LigerError
from liger.local_cluster import GroupSpec
from liger.models import resolve
from tests.support.clusters import running_cluster

pytestmark = pytest.mark.models

CHAT, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
TEXTS = [
    "a cat",
    "a kitten on the sofa",
    "un chat",
    "日本の猫",
    "🐈",
    "GPUs multiply matrices very fast",
    "x",
    "The end.",
]


async def stream(client: AsyncClient, number: int):
    reply = client.generate(CHAT, [Message("user", f"Count to {number + 2}.")], max_tokens=12)
    return await reply.text(), reply.finished[0].reason


async def sample(client: AsyncClient, number: int):
    reply = client.generate(CHAT, TEXTS[number], max_tokens=8, temperature=1.0, top_p=0.95, seed=number, n=2)
    texts = ["", ""]
    async for event in reply.events():
        if (text := getattr(event, "text", "")) and hasattr(event, "index"):
            texts[event.index] += text
    return tuple(texts)


async def embed(client: AsyncClient, number: int):
    reply = await client.embed(EMBEDDER, TEXTS[number:] + TEXTS[:number])
    return [value for vector in reply.embeddings for value in vector]


async def score(client: AsyncClient, number: int):
    reply = await client.score(CHAT, [("Paris is the capital of", " France"), (TEXTS[number], " and so on")])
    return [item.logprob for item in reply.scores]


async def cancel(client: AsyncClient, number: int):
    stream = client.generate(CHAT, f"Story {number}:", max_tokens=400, ignore_eos=True)
    async with stream, aclosing(aiter(stream)) as pieces:
        async for _ in pieces:
            return "cancelled"
    return "never began"


def expected(answer):
    """Other batches round otherwise: numbers are equal within float32's rounding, texts exactly."""
    return pytest.approx(answer, abs=1e-4) if isinstance(answer, list) else answer


CALLS = [(kind, number) for number in range(8) for kind in (stream, embed, score, cancel)]
SAMPLES = [(sample, number) for number in range(4)]


async def test_mixed_calls_at_once_give_the_same_answers_as_one_by_one(tmp_path):
    groups = [
        GroupSpec(model_folder=resolve(CHAT), model_name=CHAT, tp_size=2),
        GroupSpec(model_folder=resolve(EMBEDDER), model_name=EMBEDDER, tp_size=2),
    ]
    async with running_cluster(tmp_path, *groups) as client:
        together = await asyncio.gather(*(kind(client, number) for kind, number in CALLS + SAMPLES))
        alone = [await kind(client, number) for kind, number in CALLS + SAMPLES]
        assert together == [expected(answer) for answer in alone]
        assert {answer for answer in together if isinstance(answer, str)} == {"cancelled"}
        with pytest.raises(LigerError):
            await client.embed("nobody", ["x"])
        assert await embed(client, 0) == expected(alone[1])  # the service goes on
