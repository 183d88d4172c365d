"""Outputs of a stated form through the whole stack: two ranks, interleaved batches, several samples."""

import asyncio
import json
import re
from contextlib import aclosing
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from liger.client import AsyncClient
from liger.domain import FinishReason
from liger.errors import InvalidRequestError
from liger.local_cluster import LocalCluster
from tests.support.made_schemas import made_schema
from tests.support.served_llama import (
    MAX_LENGTH,
    NAME,
    Reference,
    check_nothing_is_left,
    cluster_spec,
    generate,
    make_served_llama,
    state_when,
)
from tests.support.tiny_models import token_ids

SCHEMAS = [made_schema(seed) for seed in range(14)]
REGEX = r"(red|green|blue), [0-9]{2,4}( and [a-f]{3}){1,2}!"
GRAMMAR = 'start: "<" WORD ("," WORD)* ">"\nWORD: /[a-z]{1,5}/'
BAD_SCHEMAS = {
    '{"type": "object", "properties": {"age": {"type": "integr"}}}': "properties.age.type",
    '{"type": "array", "items": {"pattern": "(", "type": "string"}}': "items",
    '{"$ref": "https://elsewhere/schema.json"}': "$ref",
    '{"type": "object",': "line 1",
    '{"type": "integer", "minimum": 5, "maximum": 3}': "nsatisfiable",
}
PROMPTS = token_ids(4, 21, 38)
ROOM = MAX_LENGTH - max(map(len, PROMPTS))


async def made(client: AsyncClient, number: int, **options: Any) -> list[tuple[str, FinishReason]]:
    """Return the texts of a constrained call's samples and why each ended."""
    options = {"n": 2, "max_tokens": ROOM, "temperature": 1.0, "seed": number, **options}
    stream = client.generate(NAME, PROMPTS[number % 3], **options)
    texts = [""] * options["n"]
    async for event in stream.events():
        if text := getattr(event, "text", ""):
            texts[event.index] += text
    return [(text, end.reason) for text, end in zip(texts, stream.finished, strict=True)]


def check_json(schema: Any, samples: list[tuple[str, FinishReason]]) -> None:
    for text, reason in samples:
        assert reason is FinishReason.GRAMMAR
        Draft202012Validator(schema).validate(json.loads(text))


async def check_forms(client: AsyncClient, reference: Reference) -> None:
    """Ask for every form at once, beside plain generations and encodings; then for some again, alone."""
    calls = [made(client, number, json_schema=schema) for number, schema in enumerate(SCHEMAS)]
    calls += [made(client, 50, regex=REGEX), made(client, 51, grammar=GRAMMAR), made(client, 52, regex="(ab)?", n=3)]
    crowd = [generate(client, PROMPTS[number % 3], max_tokens=20, ignore_eos=True) for number in range(6)]
    embeddings = [client.embed(NAME, PROMPTS) for _ in range(4)]
    answers = await asyncio.gather(*calls, *crowd, *embeddings)
    for schema, samples in zip(SCHEMAS, answers, strict=False):
        check_json(schema, samples)
    by_regex, by_grammar, short = answers[len(SCHEMAS) : len(calls)]
    assert all(re.fullmatch(REGEX, text) for text, _ in by_regex)
    assert all(re.fullmatch("<[a-z]{1,5}(,[a-z]{1,5})*>", text) for text, _ in by_grammar)
    assert all(text in {"", "ab"} for text, _ in short)
    assert len({text for text, _ in by_regex}) == 2
    for number, (tokens,) in enumerate(answers[len(calls) : len(calls) + len(crowd)]):
        assert tokens == reference.tokens(tuple(PROMPTS[number % 3]), 20)
    for number in (0, 5, 9):
        assert await made(client, number, json_schema=SCHEMAS[number]) == answers[number]


async def check_refusals(client: AsyncClient) -> None:
    for text, place in BAD_SCHEMAS.items():
        with pytest.raises(InvalidRequestError) as caught:
            await made(client, 0, json_schema=text)
        assert place in caught.value.message
        assert caught.value.field.startswith("structured_output.json_schema")


async def check_cancels(client: AsyncClient, controller: str) -> None:
    """Leave constrained streams at several points; what they held comes back."""
    letters = {"type": "string", "pattern": "^[a-z]{400}$"}
    for num_events in (0, 1, 3, 20):
        stream = client.generate(NAME, PROMPTS[1], json_schema=letters, n=2, max_tokens=500)
        async with stream, aclosing(stream.events()) as events:
            for _ in range(num_events):
                await anext(events)
        await state_when(controller, lambda each: each.num_used_blocks + each.num_running == 0)


async def test_constrained_samples_parse_among_others_and_leave_nothing_when_cancelled(tmp_path):
    reference = Reference(make_served_llama(tmp_path / "m"), 20)
    spec = cluster_spec(tmp_path / "m", tmp_path / "logs", controller={"max-batch-tokens": "64"})
    async with LocalCluster(spec) as cluster, AsyncClient(cluster.gateway, timeout_s=240) as client:
        await check_forms(client, reference)
        await check_refusals(client)
        await check_cancels(client, cluster.controller)
        check_json(SCHEMAS[1], await made(client, 1, json_schema=SCHEMAS[1], temperature=0.0))
        await check_nothing_is_left(cluster.controller)
