"""Hostile and mistaken requests: each a clear status with its reason and field; the gateway goes on."""

from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from liger.v1 import inference_pb2 as pb
from liger.v1 import types_pb2
from tests.unit.gateway import folders
from tests.unit.gateway.conftest import Gateway, StartGateway

EOS = folders.byte_level().token_to_id("<|im_end|>")
NAN, INF = float("nan"), float("inf")
INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED


def generate(**fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(**({"model": "bare", "token_ids": {"ids": [5]}} | fields))


def sampling(**fields: Any) -> pb.GenerateRequest:
    return generate(sampling=fields)


def stop(**fields: Any) -> pb.GenerateRequest:
    return generate(stop=fields)


def infer(**fields: Any) -> pb.InferRequest:
    return pb.InferRequest(**({"model": "embedder"} | fields))


def embed(**fields: Any) -> pb.InferRequest:
    return infer(embed={"inputs": [{"text": "a"}]} | fields)


RESUMPTION = generate(resume_num_tokens=[3])

BAD_GENERATIONS = {
    "temperature NaN": (sampling(temperature=NAN), "sampling.temperature", "is nan"),
    "temperature infinite": (sampling(temperature=INF), "sampling.temperature", "0 to 100"),
    "temperature negative": (sampling(temperature=-0.1), "sampling.temperature", "0 to 100"),
    "temperature too large": (sampling(temperature=101), "sampling.temperature", "0 to 100"),
    "top_p zero": (sampling(top_p=0), "sampling.top_p", "above 0"),
    "top_p too large": (sampling(top_p=1.5), "sampling.top_p", "at most 1"),
    "top_p NaN": (sampling(top_p=NAN), "sampling.top_p", "is nan"),
    "min_p negative": (sampling(min_p=-1), "sampling.min_p", "0 to 1"),
    "min_p NaN": (sampling(min_p=NAN), "sampling.min_p", "is nan"),
    "typical_p NaN": (sampling(typical_p=NAN), "sampling.typical_p", "is nan"),
    "repetition_penalty zero": (sampling(repetition_penalty=0), "sampling.repetition_penalty", "above 0"),
    "repetition_penalty infinite": (sampling(repetition_penalty=INF), "sampling.repetition_penalty", "is inf"),
    "presence_penalty": (sampling(presence_penalty=3), "sampling.presence_penalty", "-2 to 2"),
    "frequency_penalty": (sampling(frequency_penalty=NAN), "sampling.frequency_penalty", "-2 to 2"),
    "typical_p zero": (sampling(typical_p=0), "sampling.typical_p", "above 0"),
    "typical_p too large": (sampling(typical_p=1.1), "sampling.typical_p", "at most 1"),
    "repetition_penalty NaN": (sampling(repetition_penalty=NAN), "sampling.repetition_penalty", "is nan"),
    "presence_penalty infinite": (sampling(presence_penalty=-INF), "sampling.presence_penalty", "-2 to 2"),
    "logit_bias value": (sampling(logit_bias={5: 101.0}), "sampling.logit_bias[5]", "-100 to 100"),
    "logit_bias NaN": (sampling(logit_bias={5: 1.0, 6: NAN}), "sampling.logit_bias[6]", "is nan"),
    "logit_bias infinite": (sampling(logit_bias={7: -INF}), "sampling.logit_bias[7]", "is -inf"),
    "allowed and banned": (
        sampling(allowed_token_ids=[5, 6], banned_token_ids=[6, 5, 7]),
        "sampling.banned_token_ids",
        "no token to draw",
    ),
    "everything banned": (sampling(banned_token_ids=range(500)), "sampling.banned_token_ids", "no token to draw"),
    "only ends allowed before min_tokens": (
        generate(model="chat", sampling={"allowed_token_ids": [EOS, 9]}, stop={"min_tokens": 1, "stop_token_ids": [9]}),
        "stop.min_tokens",
        "no token to draw",
    ),
    "best_of too large": (generate(best_of=65), "best_of", "1 to 64"),
    "best_of zero": (generate(best_of=0), "best_of", "1 to 64"),
    "structure without text": (generate(structured_output={"regex": "a+"}), "structured_output", "no tokenizer.json"),
    "structure without end": (
        generate(model="chat", structured_output={"regex": "a+"}, stop={"ignore_eos": True}),
        "stop.ignore_eos",
        "structured_output needs",
    ),
    "structure of a model without end": (
        generate(model="endless", structured_output={"regex": "a+"}),
        "structured_output",
        "needs an end-of-sequence token",
    ),
    "regex that is none": (generate(model="chat", structured_output={"regex": "a("}), "structured_output.regex", "("),
    "grammar that is none": (
        generate(model="chat", structured_output={"grammar": "start: nowhere"}),
        "structured_output.grammar",
        "nowhere",
    ),
    "logit_bias id": (sampling(logit_bias={500: 1.0}), "sampling.logit_bias", "ends at 499"),
    "allowed_token_ids": (sampling(allowed_token_ids=[500]), "sampling.allowed_token_ids", "ends at 499"),
    "banned_token_ids": (sampling(banned_token_ids=[2**32 - 1]), "sampling.banned_token_ids", "ends at 499"),
    "n zero": (generate(n=0), "n", "1 to 64"),
    "n too large": (generate(n=65), "n", "1 to 64"),
    "best_of below n": (generate(n=3, best_of=2), "best_of", "3 to 64"),
    "logprobs too many": (generate(logprobs=21), "logprobs", "0 to 20"),
    "prompt_logprobs too many": (generate(prompt_logprobs=21), "prompt_logprobs", "0 to 20"),
    "structured_output empty": (generate(structured_output={}), "structured_output", "json_schema"),
    "priority": (generate(priority=101), "priority", "-100 to 100"),
    "no prompt": (pb.GenerateRequest(model="bare"), "prompt", "set text, chat or token_ids"),
    "empty text": (pb.GenerateRequest(model="chat", text=""), "text", "is empty"),
    "no token ids": (generate(token_ids={"ids": []}), "token_ids", "is empty"),
    "id outside the vocabulary": (generate(token_ids={"ids": [5, 500]}), "token_ids", "holds 500"),
    "an empty last turn": (
        pb.GenerateRequest(model="chat", chat={"messages": [{"role": "user", "content": ""}]}),
        "chat.messages",
        "empty",
    ),
    "no turns": (pb.GenerateRequest(model="chat", chat={}), "chat.messages", "0 entries"),
    "turn without role": (
        pb.GenerateRequest(model="chat", chat={"messages": [{"content": "x"}]}),
        "chat.messages[0].role",
        "is empty",
    ),
    "role the template refuses": (
        pb.GenerateRequest(model="chat", chat={"messages": [{"role": "wizard", "content": "x"}]}),
        "chat.messages",
        "unknown role wizard",
    ),
    "prompt too long": (generate(token_ids={"ids": [5] * 64}), "token_ids", "has 64 tokens and model 'bare' takes 64"),
    "max_tokens zero": (stop(max_tokens=0), "stop.max_tokens", "must be 1 to"),
    "min_tokens above max_tokens": (stop(max_tokens=3, min_tokens=4), "stop.min_tokens", "above stop.max_tokens"),
    "min_tokens beyond the context": (stop(min_tokens=64), "stop.min_tokens", "at most 63"),
    "too many stop strings": (stop(stop=[str(i) for i in range(65)]), "stop.stop", "65 entries"),
    "stop string too long": (stop(stop=["ok", "x" * 1025]), "stop.stop[1]", "1025 characters"),
    "stop string empty": (stop(stop=[""]), "stop.stop[0]", "0 characters"),
    "stop string without text": (stop(stop=["x"]), "stop.stop", "no tokenizer.json"),
    "stop id outside the vocabulary": (stop(stop_token_ids=[500]), "stop.stop_token_ids", "holds 500"),
    "too many stop ids": (stop(stop_token_ids=[1] * 1025), "stop.stop_token_ids", "1025 entries"),
    "request_id characters": (generate(request_id="a b"), "request_id", "A-Z a-z 0-9"),
    "request_id length": (generate(request_id="x" * 129), "request_id", "1 to 128"),
    "request_id line break": (generate(request_id="x\n"), "request_id", "1 to 128"),
    "model that cannot": (generate(model="embedder"), "model", "cannot generate; it can embed"),
    "model empty": (generate(model=""), "model", "models here: bare"),
}

BAD_INFERENCES = {
    "no task": (infer(), "task", "set embed, classify, rerank or score"),
    "no inputs": (infer(embed={}), "embed.inputs", "0 entries"),
    "empty input": (infer(embed={"inputs": [{"text": "a"}, {}]}), "embed.inputs[1]", "set its text or its token_ids"),
    "empty text": (infer(embed={"inputs": [{"text": ""}]}), "embed.inputs[0].text", "is empty"),
    "no ids": (infer(embed={"inputs": [{"token_ids": {}}]}), "embed.inputs[0].token_ids", "is empty"),
    "id outside": (infer(embed={"inputs": [{"token_ids": {"ids": [501]}}]}), "embed.inputs[0].token_ids", "holds 501"),
    "too many inputs": (infer(embed={"inputs": [{"text": "a"}] * 2049}), "embed.inputs", "2049 entries"),
    "dimensions zero": (embed(dimensions=0), "embed.dimensions", "1 to 3"),
    "dimensions too many": (embed(dimensions=4), "embed.dimensions", "1 to 3"),
    "pooling unknown": (embed(pooling=17), "embed.pooling", "17 is unknown"),
    "priority": (infer(priority=-101, embed={"inputs": [{"text": "a"}]}), "priority", "-100 to 100"),
    "task of another model": (infer(score={"items": []}), "model", "cannot score; it can embed"),
    "pairs of another number": (
        infer(model="sentiment", classify={"inputs": [{"text": "a"}], "pairs": [{"text": "a"}] * 2}),
        "classify.pairs",
        "2 entries and classify.inputs 1",
    ),
    "pairs of ids": (
        infer(model="sentiment", classify={"inputs": [{"text": "a"}], "pairs": [{"token_ids": {"ids": [5]}}]}),
        "classify.pairs",
        "give text",
    ),
    "query of ids": (
        infer(model="ranker", rerank={"query": {"token_ids": {"ids": [5]}}, "documents": [{"text": "a"}]}),
        "rerank.query",
        "give text",
    ),
    "no query": (infer(model="ranker", rerank={"documents": [{"text": "a"}]}), "rerank.query", "set its text"),
    "no documents": (infer(model="ranker", rerank={"query": {"text": "a"}}), "rerank.documents", "0 entries"),
    "top_n zero": (
        infer(model="ranker", rerank={"query": {"text": "a"}, "documents": [{"text": "a"}], "top_n": 0}),
        "rerank.top_n",
        "must be 1 to",
    ),
    "pair too long": (
        infer(model="ranker", rerank={"query": {"text": "a " * 9}, "documents": [{"text": "b " * 9}]}),
        "rerank.documents[0]",
        "has 21 tokens",
    ),
    "no score items": (infer(model="chat", score={}), "score.items", "0 entries"),
    "empty continuation": (
        infer(model="chat", score={"items": [{"context": {"text": "a"}, "continuation": {"text": ""}}]}),
        "score.items[0].continuation.text",
        "is empty",
    ),
    "no continuation": (
        infer(model="chat", score={"items": [{"context": {"text": "a"}}]}),
        "score.items[0].continuation",
        "set its text",
    ),
    "score cut": (
        infer(model="chat", truncate=True, score={"items": [{"continuation": {"text": "a fox"}}]}),
        "truncate",
        "cuts nothing",
    ),
    "score too long": (
        infer(model="sentencepiece", score={"items": [{"continuation": {"text": "a" * 65}}]}),
        "score.items[0]",
        "takes 64",
    ),
}


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    return caught.value


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Return the status's google.rpc details by their type's name."""
    found = {}
    status = rpc_status.from_call(error)
    assert status is not None
    for detail in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            message = kind()
            if detail.Unpack(message):
                found[kind.__name__] = message
    return found


def field_of(error: grpc.aio.AioRpcError) -> str:
    return details(error)["BadRequest"].field_violations[0].field


@pytest.mark.parametrize("case", BAD_GENERATIONS)
async def test_a_bad_generation_is_invalid_and_names_its_field(gateway: Gateway, case: str) -> None:
    request, field, words = BAD_GENERATIONS[case]
    error = await refused(gateway.stub.Generate(request))
    assert error.code() is INVALID
    assert words in error.details()
    assert field_of(error) == field
    assert gateway.controller.submits == []


@pytest.mark.parametrize("case", BAD_INFERENCES)
async def test_a_bad_inference_is_invalid_and_names_its_field(gateway: Gateway, case: str) -> None:
    request, field, words = BAD_INFERENCES[case]
    error = await refused(gateway.stub.Infer(request))
    assert error.code() is INVALID
    assert words in error.details()
    assert field_of(error) == field
    assert gateway.controller.submits == []


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (BAD_GENERATIONS["temperature NaN"][0], "INVALID_REQUEST"),
        (BAD_GENERATIONS["prompt too long"][0], "INPUT_TOO_LONG"),
        (BAD_GENERATIONS["model that cannot"][0], "UNSUPPORTED_TASK"),
        (RESUMPTION, "NOT_SERVED"),
        (generate(model="nobody"), "MODEL_NOT_FOUND"),
        (generate(model="forming"), "UNAVAILABLE"),
    ],
)
async def test_errors_carry_a_stable_reason(gateway: Gateway, request_: pb.GenerateRequest, reason: str) -> None:
    info = details(await refused(gateway.stub.Generate(request_)))["ErrorInfo"]
    assert (info.reason, info.domain) == (reason, "liger.v1")


async def test_what_is_not_done_yet_is_refused_by_name(gateway: Gateway) -> None:
    error = await refused(gateway.stub.Generate(RESUMPTION))
    assert (error.code(), field_of(error)) == (UNIMPLEMENTED, "resume_num_tokens")
    assert gateway.controller.submits == []


async def test_values_that_change_nothing_are_served(gateway: Gateway) -> None:
    neutral = {
        "typical_p": 1.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logit_bias": {5: 0.0},
    }
    request = generate(sampling=neutral, n=2, best_of=2, resume_num_tokens=[0, 0], stop={"max_tokens": 1})
    messages = [message async for message in gateway.stub.Generate(request)]
    assert messages[-1].HasField("summary")


async def test_an_unknown_model_is_not_found(gateway: Gateway) -> None:
    for call in (
        gateway.stub.Generate(generate(model="nobody")),
        gateway.stub.Infer(infer(model="nobody")),
        gateway.stub.Tokenize(pb.TokenizeRequest(model="nobody", text="a")),
        gateway.stub.GetModel(pb.GetModelRequest(model="nobody")),
    ):
        error = await refused(call)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "models here: bare, chat, embedder" in error.details()


async def test_a_model_that_is_forming_is_unavailable_for_now(gateway: Gateway) -> None:
    error = await refused(gateway.stub.Generate(generate(model="forming")))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details(error)["RetryInfo"].retry_delay.ToMilliseconds() == 2000


async def test_nothing_to_tokenize_is_invalid(gateway: Gateway) -> None:
    error = await refused(gateway.stub.Tokenize(pb.TokenizeRequest(model="chat")))
    assert (error.code(), field_of(error)) == (INVALID, "content")


async def test_a_request_id_that_is_under_way_is_refused(gateway: Gateway) -> None:
    async def script(submit: Any, talk: Any) -> None:
        talk.tokens(submit.request_id, [5])

    gateway.controller.script = script
    first = gateway.stub.Generate(generate(request_id="twice"))
    await first.read()
    error = await refused(gateway.stub.Generate(generate(request_id="twice")))
    assert (error.code(), field_of(error)) == (grpc.StatusCode.ALREADY_EXISTS, "request_id")
    error = await refused(gateway.stub.Infer(infer(request_id="twice")))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    first.cancel()
    await gateway.controller.until(lambda: gateway.controller.cancels)
    gateway.controller.script = gateway.controller.play
    messages = [message async for message in gateway.stub.Generate(generate(request_id="twice"))]
    assert messages[0].started.request_id == "twice"


async def test_calls_beyond_the_bound_are_refused_with_a_time_to_come_back(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_requests=2)

    async def script(submit: Any, talk: Any) -> None:
        talk.tokens(submit.request_id, [5])

    gateway.controller.script = script
    calls = [gateway.stub.Generate(generate()) for _ in range(2)]
    for call in calls:
        await call.read()
    error = await refused(gateway.stub.Generate(generate()))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error)["RetryInfo"].retry_delay.ToMilliseconds() == 1000
    calls[0].cancel()
    await gateway.controller.until(lambda: gateway.controller.cancels)
    messages = await gateway.stub.Tokenize(pb.TokenizeRequest(model="chat", text="fox"))
    assert messages.token_ids


async def test_fewer_inputs_may_be_allowed(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_inputs=1)
    error = await refused(gateway.stub.Infer(infer(embed={"inputs": [{"text": "a"}] * 2})))
    assert (error.code(), field_of(error)) == (INVALID, "embed.inputs")


async def test_a_reply_that_would_not_fit_a_message_is_refused_before_the_work(gateway: Gateway) -> None:
    gateway.controller.models["embedder"].info.hidden_size = 1_000_000
    await gateway.tell_catalogue()
    error = await refused(gateway.stub.Infer(infer(embed={"inputs": [{"text": "a"}] * 17})))
    assert (error.code(), field_of(error)) == (INVALID, "embed.inputs")


@pytest.mark.parametrize("method", ["Infer", "Generate", "Tokenize", "GetModel"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x0a\x02\xff\xfe\x12\x02\xff\xfe", "strings must be UTF-8"),  # fields 1 and 2 hold no UTF-8
        (b"\x0a\xff", "cannot be parsed"),  # a length without bytes
    ],
)
async def test_bytes_that_are_no_request_are_invalid(gateway: Gateway, method: str, data: bytes, words: str) -> None:
    path = f"/liger.v1.InferenceService/{method}"
    call = gateway.channel.unary_stream(path) if method == "Generate" else gateway.channel.unary_unary(path)
    error = await refused(call(data))
    assert error.code() is INVALID
    assert words in error.details()


async def test_an_oversized_message_is_refused_with_the_numbers(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_message_mib=1)
    error = await refused(gateway.stub.Tokenize(pb.TokenizeRequest(model="chat", text="x" * 2**20)))
    assert error.code() is INVALID
    assert "1,048,576" in error.details()
    assert "--max-message-mib" in error.details()
    assert (await gateway.client.tokenize("chat", "x" * 1000)).token_ids


async def test_a_call_whose_time_is_over_before_it_starts_is_refused(gateway: Gateway) -> None:
    error = await refused(gateway.stub.GetModel(pb.GetModelRequest(model="chat"), timeout=-1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_unspecified_pooling_is_the_models_own(gateway: Gateway) -> None:
    await gateway.stub.Infer(embed(pooling=types_pb2.POOLING_UNSPECIFIED))
    assert gateway.controller.submits[0].encode.head.pool.pooling == types_pb2.POOLING_MEAN
