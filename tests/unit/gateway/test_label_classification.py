"""Classification by labels: each input's labels by their likelihood, for models without a classification head."""

import math
from typing import Any

import pytest

from liger.errors import InputTooLongError, InvalidRequestError, LigerError, UnsupportedTaskError
from liger.v1 import controller_pb2, types_pb2
from tests.support.fake_controller import Conversation
from tests.unit.gateway import folders
from tests.unit.gateway.conftest import Gateway, StartGateway


def ids(text: str) -> list[int]:
    return folders.byte_level().encode(text).ids


def sent(gateway: Gateway) -> list[tuple[list[int], int]]:
    [submit] = gateway.controller.submits
    return [(list(item.token_ids), item.score_from) for item in submit.encode.items]


async def test_each_input_is_followed_by_each_label_after_a_space(gateway: Gateway) -> None:
    await gateway.client.classify("chat", ["the fox is", "the dog is "], labels=["red", "blue"])
    fox, dog = ids("the fox is"), ids("the dog is ")
    assert sent(gateway) == [
        (fox + ids(" red"), len(fox)),
        (fox + ids(" blue"), len(fox)),
        (dog + ids("red"), len(dog)),
        (dog + ids("blue"), len(dog)),
    ]
    [submit] = gateway.controller.submits
    assert (submit.task, submit.encode.head.WhichOneof("kind")) == (types_pb2.TASK_CLASSIFY, "score")


async def test_probabilities_are_softmax_over_the_labels_likelihoods(gateway: Gateway) -> None:
    labels = ["red", "blue", "green"]
    raw = await gateway.client.classify("chat", ["the fox is", "x"], labels=labels, raw=True)
    shares = await gateway.client.classify("chat", ["the fox is", "x"], labels=labels)
    sums = [-sum(ids(f" {label}")) / 8 for label in labels]  # what the fake ranks compute
    weights = [math.exp(value - max(sums)) for value in sums]
    assert raw.labels == shares.labels == tuple(labels)
    for given, share in zip(raw.classifications, shares.classifications, strict=True):
        assert given.scores == pytest.approx(sums, rel=1e-5)
        assert share.scores == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-6)
        assert given.label == share.label == labels[sums.index(max(sums))]
    assert [item.num_tokens for item in shares.classifications] == [len(ids("the fox is")), len(ids("x"))]


async def test_inputs_may_be_token_ids(gateway: Gateway) -> None:
    await gateway.client.classify("chat", [[5, 6]], labels=["red", "blue"])
    assert sent(gateway) == [([5, 6, *ids(" red")], 2), ([5, 6, *ids(" blue")], 2)]


async def test_inputs_begin_as_the_model_begins_texts(gateway: Gateway) -> None:
    await gateway.client.classify("sentencepiece", "a", labels=["b", "a b"])
    assert all(tokens[0] == 1 for tokens, _ in sent(gateway))  # <s>, once
    assert all(1 not in tokens[1:] for tokens, _ in sent(gateway))


async def test_truncate_cuts_inputs_so_that_the_longest_label_fits(gateway: Gateway) -> None:
    labels = ["red", "the quick brown fox"]
    longest = max(len(ids(f" {label}")) for label in labels)
    await gateway.client.classify("chat", [[5] * 100, [6]], labels=labels, truncate=True)
    found = sent(gateway)
    assert [score_from for _, score_from in found] == [64 - longest, 64 - longest, 1, 1]
    assert max(len(tokens) for tokens, _ in found) == 64


async def test_an_input_that_does_not_fit_with_its_labels_is_refused(gateway: Gateway) -> None:
    with pytest.raises(InputTooLongError, match=r"has 64 tokens, and model 'chat' takes 64 with the longest") as caught:
        await gateway.client.classify("chat", [[5], [5] * 64], labels=["red", "blue"])
    assert caught.value.field == "classify.inputs[1]"


async def test_labels_that_leave_no_room_for_an_input_are_refused_even_if_inputs_may_be_cut(gateway: Gateway) -> None:
    with pytest.raises(InputTooLongError, match="leaves no room") as caught:
        await gateway.client.classify("chat", [[5]], labels=["red", "🦊" * 64], truncate=True)
    assert caught.value.field == "classify.labels"
    assert gateway.controller.submits == []


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "one label": ("chat", {"labels": ["red"]}, "classify.labels", "must have 2"),
    "an empty label": ("chat", {"labels": ["red", ""]}, "classify.labels[1]", "is empty"),
    "a label twice": ("chat", {"labels": ["red", "blue", "red"]}, "classify.labels", "'red' twice"),
    "pairs": ("chat", {"labels": ["red", "blue"], "pairs": ["a"]}, "classify.pairs", "cannot go with"),
    "a head": ("sentiment", {"labels": ["red", "blue"]}, "classify.labels", "labels of its own"),
    "no labels": ("chat", {}, "classify.labels", "name the labels"),
    "neither": ("embedder", {"labels": ["red", "blue"]}, "model", "cannot score"),
    "too many labels": ("chat", {"labels": [str(n) for n in range(2049)]}, "classify.labels", "2049 entries"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_labels_that_cannot_be_served_are_refused(gateway: Gateway, case: str) -> None:
    model, options, field, words = REFUSED[case]
    with pytest.raises(InvalidRequestError, match=words) as caught:
        await gateway.client.classify(model, ["a"], **options)
    assert caught.value.field == field
    assert isinstance(caught.value, UnsupportedTaskError) == (case in {"no labels", "neither"})
    assert gateway.controller.submits == []


async def test_inputs_times_labels_are_bounded(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_inputs=6)
    with pytest.raises(InvalidRequestError, match="make 8 likelihoods, and a call takes 6"):
        await gateway.client.classify("chat", ["a"] * 4, labels=["red", "blue"])
    assert len((await gateway.client.classify("chat", ["a"] * 3, labels=["red", "blue"])).classifications) == 3


async def test_all_tokens_of_a_call_together_are_bounded(gateway: Gateway) -> None:
    gateway.controller.models["chat"].info.max_length = 100_000
    await gateway.tell_catalogue()
    with pytest.raises(InputTooLongError, match="more than 1,048,576 are not taken"):
        await gateway.client.classify("chat", [[5] * 90_000], labels=[f"label {number}" for number in range(20)])


async def test_a_model_without_tokenizer_cannot_read_labels(gateway: Gateway) -> None:
    with pytest.raises(LigerError, match=r"no tokenizer\.json"):
        await gateway.client.classify("bare", [[5]], labels=["red", "blue"])


async def test_likelihoods_that_are_not_those_of_the_labels_fail_the_request(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        for index in range(len(submit.encode.items)):
            talk.output(submit.request_id, index, [])
        talk.finish(submit.request_id)

    gateway.controller.script = script
    with pytest.raises(LigerError, match="one likelihood for each token"):
        await gateway.client.classify("chat", "x", labels=["red", "blue"])
