"""What one call may bring is bounded before it costs memory or time."""

from typing import Any

import grpc
import grpc.aio
import pytest

from gateway import sizes, tokenizer
from gateway.tokenizer import ModelTokenizer
from liger.client import Message
from liger.errors import InputTooLongError
from liger.v1 import inference_pb2 as pb
from tests.unit.gateway import folders
from tests.unit.gateway.conftest import Gateway

LONG = "a " * (64 * sizes.CHARACTERS_PER_TOKEN)  # more characters than a context of 64 tokens can hold


async def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenised(gateway: Gateway) -> None:
    calls = {
        "text": gateway.client.generate("chat", LONG).text(),
        "chat": gateway.client.generate("chat", [Message("user", "Hi"), Message("user", LONG)]).text(),
        "embed.inputs[1]": gateway.client.embed("embedder", ["a", LONG]),
        "rerank.documents[0]": gateway.client.rerank("ranker", "a", [LONG]),
        "score.items[0]": gateway.client.score("chat", [("a", LONG)]),
    }
    for field, call in calls.items():
        with pytest.raises(InputTooLongError, match=r"characters, which cannot fit the \d+ tokens") as caught:
            await call
        assert caught.value.field == field


async def test_a_long_text_that_is_to_be_cut_is_read_as_far_as_it_may_matter(gateway: Gateway) -> None:
    await gateway.client.embed("embedder", LONG, truncate=True)
    [item] = gateway.controller.submits[0].encode.items
    assert list(item.token_ids) == [2, *[4] * 14, 3]
    await gateway.client.rerank("ranker", LONG, [LONG], truncate=True)
    [item] = gateway.controller.submits[1].encode.items
    assert len(item.token_ids) == 16


async def test_tokenize_takes_as_much_as_a_reply_may_hold(gateway: Gateway) -> None:
    for content in ("a" * (sizes.MAX_TOKENIZE_CHARACTERS + 1), [Message("user", "a" * 500_001)]):
        with pytest.raises(InputTooLongError, match="Tokenize takes 500,000"):
            await gateway.client.tokenize("chat", content)


async def test_more_ids_than_a_call_may_bring_are_refused(gateway: Gateway) -> None:
    half = [5] * (sizes.MAX_CALL_TOKENS // 2 + 1)
    calls: list[Any] = [
        gateway.client.generate("bare", half * 2).text(),
        gateway.client.embed("bare", [half, half]),
        gateway.client.score("bare", [(half, half)]),
    ]
    for call in calls:
        with pytest.raises(InputTooLongError, match="the call brings 1,048,578 tokens"):
            await call


async def test_texts_are_tokenised_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "PART_CHARACTERS", 8)
    model = ModelTokenizer(folders.word_level().to_str())
    texts = ["a b", "c d", "e f g h i j", "", "k"]
    encoded = await model.encode(texts, add_special_tokens=False)
    assert [item.token_ids for item in encoded] == [[4, 5], [6, 7], [8, 9, 10, 11, 12, 13], [], [14]]


async def test_texts_of_more_tokens_than_a_call_may_bring_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MAX_CALL_TOKENS", 5)
    model = ModelTokenizer(folders.word_level().to_str())
    assert await model.encode(["a b c", "d e"], add_special_tokens=False)
    with pytest.raises(InputTooLongError, match="split it"):
        await model.encode(["a b c", "d e f"], add_special_tokens=False)


async def test_a_submission_that_fits_no_message_is_refused(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.controller_link.MAX_MESSAGE_BYTES", 1000)
    with pytest.raises(InputTooLongError, match="too many tokens"):
        await gateway.client.embed("bare", [[5] * 60] * 30)
    assert gateway.controller.submits == []
    assert (await gateway.client.embed("bare", [[5]])).embeddings


async def test_metadata_beyond_grpcs_bound_is_refused(gateway: Gateway) -> None:
    call = gateway.stub.ListModels(pb.ListModelsRequest(), metadata=(("baggage", "x" * 100_000),))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
