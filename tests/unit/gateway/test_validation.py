"""Validation of any request gives a domain value in range or an error that names a field, and nothing else."""

import math
from collections.abc import Callable
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec import from_served
from gateway.controller_codec import to_served
from gateway.model import Model
from gateway.requests import ClassifyByLabels, Conversation, Generation
from gateway.validation.generate import to_generation
from gateway.validation.infer import to_inference
from liger.errors import LigerError
from liger.v1 import controller_pb2, types_pb2
from liger.v1 import inference_pb2 as pb
from tests.unit.gateway.conftest import model_info

UINT32 = st.integers(0, 2**32 - 1) | st.integers(0, 600)
DOUBLE = st.floats() | st.sampled_from([0.0, 1.0, 0.5, -0.0])
SHORT = st.text(max_size=5)
IDS = st.lists(UINT32, max_size=4)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a message's fields, each set or left out."""
    return st.fixed_dictionaries({}, optional=fields)


SAMPLING = some(
    **dict.fromkeys(["temperature", "top_p", "min_p", "typical_p", "repetition_penalty"], DOUBLE),
    **dict.fromkeys(["presence_penalty", "frequency_penalty"], DOUBLE),
    top_k=UINT32,
    seed=st.integers(0, 2**64 - 1),
    logit_bias=st.dictionaries(UINT32, DOUBLE, max_size=2),
    allowed_token_ids=IDS,
    banned_token_ids=IDS,
)
STOP = some(
    max_tokens=UINT32,
    min_tokens=UINT32,
    stop=st.lists(SHORT, max_size=3),
    stop_token_ids=IDS,
    include_stop=st.booleans(),
    ignore_eos=st.booleans(),
)
PROMPT = st.one_of(
    st.just({}),
    SHORT.map(lambda text: {"text": text}),
    IDS.map(lambda ids: {"token_ids": {"ids": ids}}),
    st.lists(some(role=SHORT, content=SHORT), max_size=2).map(lambda turns: {"chat": {"messages": turns}}),
)
REST = some(
    priority=st.integers(-(2**31), 2**31 - 1) | st.integers(-100, 100),
    sampling=SAMPLING,
    stop=STOP,
    n=UINT32,
    best_of=UINT32,
    logprobs=UINT32,
    prompt_logprobs=UINT32,
    structured_output=some(regex=SHORT) | some(json_schema=SHORT) | some(grammar=SHORT),
    resume_num_tokens=IDS,
)
INPUT = some(text=SHORT) | IDS.map(lambda ids: {"token_ids": {"ids": ids}})
INPUTS = st.lists(INPUT, max_size=3)
TASK = st.one_of(
    st.just({}),
    some(inputs=INPUTS, pooling=st.integers(0, 9), normalize=st.booleans(), dimensions=UINT32).map(
        lambda task: {"embed": task}
    ),
    some(inputs=INPUTS, pairs=INPUTS, labels=st.lists(SHORT, max_size=2), raw=st.booleans()).map(
        lambda task: {"classify": task}
    ),
    some(query=INPUT, documents=INPUTS, top_n=UINT32, raw=st.booleans()).map(lambda task: {"rerank": task}),
    st.lists(some(context=INPUT, continuation=INPUT), max_size=3).map(lambda items: {"score": {"items": items}}),
)


def model(*tasks: int) -> Model:
    """Return a model that can do these tasks, or all."""
    info = model_info("m", *(tasks or range(1, 6)))
    return to_served(controller_pb2.Catalogue.Entry(model=info, num_groups=1)).model


def outcome_of(check: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a check gives, or the error that it raises for the client."""
    try:
        return check(*arguments)
    except LigerError as error:
        return error


@given(rest=REST, prompt=PROMPT)
def test_any_generation_is_in_range_or_refused(rest: dict[str, Any], prompt: dict[str, Any]) -> None:
    request = pb.GenerateRequest(model="m", **rest, **prompt)
    outcome = outcome_of(to_generation, request, model())
    if isinstance(outcome, LigerError):
        assert outcome.field
        assert outcome.message
    else:
        check_generation(outcome)


def check_generation(generation: Generation) -> None:
    sampling, stop = generation.sampling, generation.stop
    assert 0 <= sampling.temperature <= 100
    assert 0 < sampling.top_p <= 1
    assert 0 <= sampling.min_p <= 1
    assert 0 <= sampling.top_k < 500
    assert math.isfinite(sampling.temperature + sampling.top_p + sampling.min_p)
    assert 0 < sampling.typical_p <= 1
    assert 0 < sampling.repetition_penalty < math.inf
    assert abs(sampling.presence_penalty) <= 2
    assert abs(sampling.frequency_penalty) <= 2
    assert list(sampling.logit_bias) == sorted(sampling.logit_bias)
    assert all(token < 500 and 0 < abs(bias) <= 100 for token, bias in sampling.logit_bias)
    for ids in (sampling.allowed_token_ids, sampling.banned_token_ids):
        assert list(ids) == sorted(set(ids))
        assert all(token < 500 for token in ids)
    assert set(sampling.allowed_token_ids or range(500)) - set(sampling.banned_token_ids)
    assert sampling.logprobs is None or 0 <= sampling.logprobs <= 20
    assert sampling.logprobs is not None or not (generation.is_ranked or generation.shows_logprobs)
    assert generation.prompt_logprobs is None or 0 <= generation.prompt_logprobs <= 20
    assert 1 <= generation.num_given <= generation.num_samples <= 64
    assert -100 <= generation.priority <= 100
    assert stop.max_tokens is None or 1 <= max(1, stop.min_tokens) <= stop.max_tokens
    assert all(stop.strings)
    assert all(token < 500 for token in stop.token_ids)
    prompt = generation.prompt.turns if isinstance(generation.prompt, Conversation) else generation.prompt
    assert len(prompt) > 0


@given(task=TASK, truncate=st.booleans(), priority=st.integers(-200, 200), tasks=st.sets(st.integers(1, 5)))
def test_any_inference_is_in_range_or_refused(
    task: dict[str, Any], truncate: bool, priority: int, tasks: set[int]
) -> None:
    request = pb.InferRequest(model="m", truncate=truncate, priority=priority, **task)
    outcome = outcome_of(to_inference, request, model(*tasks), 4)
    if isinstance(outcome, LigerError):
        assert outcome.field
        assert outcome.message
    else:
        assert -100 <= outcome.priority <= 100
        if isinstance(outcome.task, ClassifyByLabels):
            assert len(set(outcome.task.labels)) == len(outcome.task.labels) >= 2
            assert 1 <= len(outcome.task.inputs) * len(outcome.task.labels) <= 4


@given(st.binary(max_size=60))
def test_any_bytes_that_parse_are_validated_without_other_errors(data: bytes) -> None:
    for kind, check, options in ((pb.GenerateRequest, to_generation, ()), (pb.InferRequest, to_inference, (8,))):
        try:
            request = kind.FromString(data)
        except DecodeError:
            continue
        outcome = outcome_of(check, request, model(), *options)
        assert not isinstance(outcome, LigerError) or outcome.field


def test_a_models_description_passes_through_unchanged() -> None:
    fields = {
        "name": "m",
        "architecture": "A",
        "tasks": ["TASK_GENERATE", "TASK_SCORE"],
        "max_length": 7,
        "vocabulary_size": 8,
        "hidden_size": 9,
        "num_layers": 10,
        "labels": ["x"],
        "default_pooling": "POOLING_CLS",
        "default_normalize": True,
        "eos_token_ids": [1, 2],
        "dtype": "bfloat16",
        "fingerprint": "f",
        "multi_label": True,
        "num_token_types": 2,
    }
    info = ParseDict(fields, types_pb2.ModelInfo())
    assert {field.name for field, _ in info.ListFields()} == set(types_pb2.ModelInfo.DESCRIPTOR.fields_by_name)
    served = to_served(controller_pb2.Catalogue.Entry(model=info, num_groups=3))
    expected = pb.GetModelResponse(model=info, num_groups=3, has_chat_template=True)
    assert from_served(served, has_chat_template=True) == expected
