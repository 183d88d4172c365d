"""What the client sends for what it is told."""

import json

import pytest

from liger.client import Message, requests
from liger.domain import Pooling
from liger.errors import InvalidRequestError
from liger.v1 import inference_pb2 as pb
from liger.v1 import types_pb2


def test_every_option_of_a_generation_reaches_its_field() -> None:
    request = requests.generate_request(
        "m",
        "text",
        {
            "max_tokens": 1,
            "min_tokens": 2,
            "stop": ["a", "b"],
            "stop_token_ids": [3],
            "include_stop": True,
            "ignore_eos": False,
            "temperature": 0.5,
            "top_k": 4,
            "top_p": 0.25,
            "min_p": 0.125,
            "typical_p": 0.75,
            "repetition_penalty": 1.5,
            "presence_penalty": -0.5,
            "frequency_penalty": 0.5,
            "logit_bias": {7: -1.0},
            "allowed_token_ids": [8],
            "banned_token_ids": [9],
            "seed": 10,
            "n": 11,
            "best_of": 12,
            "logprobs": 13,
            "prompt_logprobs": 14,
            "regex": "a+",
            "priority": -15,
            "request_id": "id",
            "timeout_s": 16.0,
        },
    )
    assert request == pb.GenerateRequest(
        model="m",
        text="text",
        request_id="id",
        priority=-15,
        n=11,
        best_of=12,
        logprobs=13,
        prompt_logprobs=14,
        structured_output=types_pb2.StructuredOutput(regex="a+"),
        stop=pb.StopConditions(
            max_tokens=1, min_tokens=2, stop=["a", "b"], stop_token_ids=[3], include_stop=True, ignore_eos=False
        ),
        sampling=types_pb2.SamplingParameters(
            temperature=0.5,
            top_k=4,
            top_p=0.25,
            min_p=0.125,
            typical_p=0.75,
            repetition_penalty=1.5,
            presence_penalty=-0.5,
            frequency_penalty=0.5,
            logit_bias={7: -1.0},
            allowed_token_ids=[8],
            banned_token_ids=[9],
            seed=10,
        ),
    )


def test_every_field_of_the_contract_is_an_option() -> None:
    """But for what the client library fills in itself."""
    options = set(requests.GenerateOptions.__annotations__)
    plain = set(pb.GenerateRequest.DESCRIPTOR.fields_by_name)
    nested = {"sampling", "stop", "structured_output"}
    fields = plain - nested - {"model", "text", "chat", "token_ids", "resume_num_tokens"}
    for kind in (pb.StopConditions, types_pb2.SamplingParameters, types_pb2.StructuredOutput):
        fields |= set(kind.DESCRIPTOR.fields_by_name)
    assert options - {"timeout_s"} == fields


def test_options_that_are_none_are_left_unset() -> None:
    request = requests.generate_request("m", "x", {"max_tokens": None, "temperature": None, "stop": None, "seed": None})
    assert request == pb.GenerateRequest(model="m", text="x")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("text", pb.GenerateRequest(text="text")),
        ([1, 2], pb.GenerateRequest(token_ids={"ids": [1, 2]})),
        ([Message("user", "Hi")], pb.GenerateRequest(chat={"messages": [{"role": "user", "content": "Hi"}]})),
        (
            [{"role": "user", "content": "Hi"}],
            pb.GenerateRequest(chat={"messages": [{"role": "user", "content": "Hi"}]}),
        ),
    ],
)
def test_a_prompt_is_text_a_conversation_or_token_ids(prompt: requests.Prompt, expected: pb.GenerateRequest) -> None:
    assert requests.generate_request("", prompt, {}) == expected


def test_one_stop_string_and_one_input_need_no_list() -> None:
    assert requests.generate_request("m", "x", {"stop": "END"}).stop.stop == ["END"]
    request = requests.embed_request("m", "one text", {}, pooling=None, normalize=None, dimensions=None)
    assert [item.text for item in request.embed.inputs] == ["one text"]


def test_an_unknown_option_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="no option temprature"):
        requests.generate_request("m", "x", {"temprature": 1.0})  # type: ignore[typeddict-unknown-key]


@pytest.mark.parametrize(
    ("prompt", "options"),
    [("x", {"top_k": -1}), ("x", {"seed": 2**64}), ("x", {"n": "two"}), ([2**32], {}), ("\ud800", {})],
)
def test_values_that_fit_no_field_are_invalid(prompt: requests.Prompt, options: requests.GenerateOptions) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be written as a message"):
        requests.generate_request("m", prompt, options)


def test_a_schema_may_be_a_mapping() -> None:
    request = requests.generate_request("m", "x", {"json_schema": {"type": "string", "enum": ["é"]}})
    assert json.loads(request.structured_output.json_schema) == {"type": "string", "enum": ["é"]}


def test_structures_exclude_one_another() -> None:
    with pytest.raises(InvalidRequestError, match="grammar and regex exclude one another") as caught:
        requests.generate_request("m", "x", {"regex": "a", "grammar": "start: /a/"})
    assert caught.value.field == "structured_output"


def test_discriminative_requests_carry_their_fields() -> None:
    options: requests.CallOptions = {"truncate": True, "priority": 3, "request_id": "id", "timeout_s": 1.0}
    common = {"model": "m", "truncate": True, "priority": 3, "request_id": "id"}
    embed = requests.embed_request("m", ["a", [1]], options, pooling=Pooling.LAST, normalize=False, dimensions=8)
    assert embed == pb.InferRequest(
        **common,
        embed={
            "inputs": [{"text": "a"}, {"token_ids": {"ids": [1]}}],
            "pooling": 3,
            "normalize": False,
            "dimensions": 8,
        },
    )
    classify = requests.classify_request("m", ["a"], options, pairs=["b"], labels=["x"], raw=True)
    assert classify == pb.InferRequest(
        **common, classify={"inputs": [{"text": "a"}], "pairs": [{"text": "b"}], "labels": ["x"], "raw": True}
    )
    rerank = requests.rerank_request("m", "q", ["a"], options, top_n=1, raw=False)
    assert rerank == pb.InferRequest(
        **common, rerank={"query": {"text": "q"}, "documents": [{"text": "a"}], "top_n": 1, "raw": False}
    )
    score = requests.score_request("m", [("a", [1])], options)
    item = {"context": {"text": "a"}, "continuation": {"token_ids": {"ids": [1]}}}
    assert score == pb.InferRequest(**common, score={"items": [item]})
