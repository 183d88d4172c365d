"""Greedy tokens of SmolLM2 through the whole service against transformers' (tests/golden, `make golden`)."""

import asyncio
import json

import pytest

from liger.client import AsyncClient
from liger.local_cluster import GroupSpec
from liger.models import resolve
from tests.support.clusters import running_cluster
from tests.support.golden import MODEL, NUM_TOKENS, PATH

pytestmark = pytest.mark.models

CASES = json.loads(PATH.read_text(encoding="utf-8"))["cases"]


async def complete(client: AsyncClient, prompt: str | list[int]) -> list[int]:
    """Return the greedy output's ids, as they were streamed."""
    stream = client.generate(MODEL, prompt, max_tokens=NUM_TOKENS)
    ids: list[int] = []
    async for event in stream.events():
        ids += getattr(event, "token_ids", ())
    return ids


@pytest.mark.parametrize(
    "num_ranks", [pytest.param(1, marks=pytest.mark.slow), 2, 3, pytest.param(4, marks=pytest.mark.slow)]
)
async def test_twenty_prompts_give_the_tokens_of_transformers(num_ranks, tmp_path):
    group = GroupSpec(model_folder=resolve(MODEL), model_name=MODEL, tp_size=num_ranks)
    async with running_cluster(tmp_path, group) as client:
        outputs = await asyncio.gather(*(complete(client, case["prompt"]) for case in CASES))
    assert len(CASES) == 20
    assert outputs == [case["output_ids"] for case in CASES]
