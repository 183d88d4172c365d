"""Generate: every control reaches the controller; samples are ranked, prompts' likelihoods told, grammars named."""

import asyncio

import pytest

from liger.client import Delta, Finished, Started, Summary
from liger.domain import FinishReason
from liger.errors import GroupFailedError, InvalidRequestError, LigerError
from liger.v1 import controller_pb2, types_pb2
from liger.v1 import inference_pb2 as pb
from tests.support.fake_controller import LENGTH, STOP, Conversation
from tests.unit.gateway import folders
from tests.unit.gateway.conftest import Gateway

EOS = folders.byte_level().token_to_id("<|im_end|>")


def ids(text: str) -> list[int]:
    return folders.byte_level().encode(text).ids


def likelihoods(logprob: float, token_ids: list[int]) -> list[types_pb2.TokenLogprob]:
    return [types_pb2.TokenLogprob(token_id=token, logprob=logprob) for token in token_ids]


async def test_every_control_reaches_the_controller(gateway: Gateway) -> None:
    stream = gateway.client.generate(
        "chat",
        [5, 6],
        temperature=0.5,
        typical_p=0.75,
        repetition_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=2.0,
        logit_bias={9: -100.0, 8: 100.0, 7: 0.0},
        allowed_token_ids=[9, 8, 8, 7],
        banned_token_ids=[7, 3],
        best_of=4,
        n=2,
        prompt_logprobs=3,
        json_schema='{"type": "integer"}',
        max_tokens=3,
    )
    await stream.text()
    [submit] = gateway.controller.submits
    work = submit.generate
    sampling = work.sampling
    assert (sampling.typical_p, sampling.repetition_penalty) == (0.75, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-0.5, 2.0)
    assert dict(sampling.logit_bias) == {8: 100.0, 9: -100.0}
    assert (list(sampling.allowed_token_ids), list(sampling.banned_token_ids)) == ([7, 8, 9], [3, 7])
    assert (work.num_samples, work.logprobs, work.HasField("logprobs"), work.prompt_logprobs) == (4, 0, True, 3)
    assert work.structured_output == types_pb2.StructuredOutput(json_schema='{"type": "integer"}')


async def test_a_bias_on_every_id_of_a_large_vocabulary_is_served(gateway: Gateway) -> None:
    gateway.controller.models["bare"].info.vocabulary_size = 200_000
    await gateway.tell_catalogue()
    biases = {token: token % 100 - 50.5 for token in range(200_000)}
    await gateway.client.generate("bare", [5], logit_bias=biases, max_tokens=1).text()
    await gateway.client.generate("bare", [5], logit_bias=dict.fromkeys(range(10000), 1.0), max_tokens=1).text()
    sent = [dict(submit.generate.sampling.logit_bias) for submit in gateway.controller.submits]
    assert sent == [biases, dict.fromkeys(range(10000), 1.0)]


async def test_extreme_repetition_penalties_stay_within_what_ranks_can_compute(gateway: Gateway) -> None:
    for penalty in (5e-324, 1.7e308):
        await gateway.client.generate("bare", [5], repetition_penalty=penalty, max_tokens=1).text()
    sent = [submit.generate.sampling.repetition_penalty for submit in gateway.controller.submits]
    assert sent == [1e-6, 1e6]


async def test_min_tokens_goes_with_a_grammar_and_with_allowed_tokens(gateway: Gateway) -> None:
    options = {"min_tokens": 2, "regex": "a+", "allowed_token_ids": [EOS, 9]}
    await gateway.client.generate("chat", [5], max_tokens=3, **options).text()  # type: ignore[arg-type]
    [submit] = gateway.controller.submits
    assert (submit.generate.min_tokens, submit.generate.structured_output.regex) == (2, "a+")


async def test_a_bad_schema_is_refused_with_the_place(gateway: Gateway) -> None:
    schema = '{"type": "object", "properties": {"age": {"type": "integger"}}}'
    with pytest.raises(InvalidRequestError, match="integger") as caught:
        await gateway.client.generate("chat", "x", json_schema=schema).text()
    assert "age" in caught.value.field + caught.value.message
    assert gateway.controller.submits == []


async def test_the_end_token_after_a_grammar_says_that_the_output_is_complete(gateway: Gateway) -> None:
    gateway.controller.continuations[tuple(ids("x"))] = [*ids("aa"), EOS]
    stream = gateway.client.generate("chat", "x", regex="a+")
    assert await stream.text() == "aa"
    assert (stream.finished[0].reason, stream.finished[0].stop) == (FinishReason.GRAMMAR, "<|im_end|>")


async def test_a_clients_own_stop_token_ends_a_grammars_output_as_a_stop(gateway: Gateway) -> None:
    gateway.controller.continuations[tuple(ids("x"))] = [*ids("aa"), EOS]
    stream = gateway.client.generate("chat", "x", regex="a+", stop_token_ids=[EOS])
    await stream.text()
    assert stream.finished[0].reason is FinishReason.STOP


def ranked_script(gateway: Gateway, samples: dict[int, tuple[str, float]], hold: asyncio.Event | None = None) -> None:
    """Answer with samples' texts, each token as likely as told."""

    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        for sample, (text, logprob) in samples.items():
            told = likelihoods(logprob, ids(text))
            talk.tokens(submit.request_id, ids(text), sample=sample, logprobs=told)
        if hold is not None:
            await hold.wait()
        for sample, (text, logprob) in samples.items():
            end = likelihoods(logprob, [EOS])
            talk.tokens(submit.request_id, [EOS], sample=sample, offset=len(ids(text)), reason=STOP, logprobs=end)
        talk.finish(submit.request_id, completion_tokens=99)

    gateway.controller.script = script


async def test_best_of_gives_the_likeliest_samples_best_first_once_all_have_ended(gateway: Gateway) -> None:
    samples = {0: ("red fox", -2.0), 1: ("blue", -0.5), 2: ("the lazy dog", -1.0), 3: ("green", -0.5)}
    ranked_script(gateway, samples)
    stream = gateway.client.generate("chat", "x", n=3, best_of=4)
    events = [event async for event in stream.events()]
    texts: dict[int, str] = {}
    for event in events:
        if isinstance(event, Delta):
            texts[event.index] = texts.get(event.index, "") + event.text
            assert event.logprobs == ()  # not asked for
    assert texts == {0: "blue", 1: "green", 2: "the lazy dog"}  # equal means by their number
    lengths = [len(ids(text)) + 1 for text in texts.values()]
    assert [finished.logprob for finished in stream.finished] == [
        pytest.approx(mean * length) for mean, length in zip((-0.5, -0.5, -1.0), lengths, strict=True)
    ]
    assert [finished.num_tokens for finished in stream.finished] == lengths
    assert isinstance(events[-1], Summary)
    assert events[-1].usage.completion_tokens == sum(len(ids(text)) + 1 for text, _ in samples.values())


async def test_ranked_samples_are_held_back_until_the_last_has_ended(gateway: Gateway) -> None:
    hold = asyncio.Event()
    ranked_script(gateway, {0: ("red", -1.0), 1: ("blue", -2.0)}, hold)
    events = aiter(gateway.client.generate("chat", "x", n=1, best_of=2, logprobs=0).events())
    assert isinstance(await anext(events), Started)
    following = asyncio.ensure_future(anext(events))
    await gateway.client.tokenize("chat", "another call gets through meanwhile")
    assert not following.done()
    hold.set()
    delta = await following
    assert isinstance(delta, Delta)
    assert (delta.text, [item.logprob for item in delta.logprobs]) == ("red", [-1.0] * len(delta.token_ids))
    assert [type(event) for event in [event async for event in events]] == [Finished, Summary]


async def test_without_best_of_no_likelihood_is_asked_or_told(gateway: Gateway) -> None:
    stream = gateway.client.generate("chat", "x", n=2, best_of=2, max_tokens=2)
    await stream.text()
    assert [finished.logprob for finished in stream.finished] == [None, None]
    assert not gateway.controller.submits[0].generate.HasField("logprobs")


async def test_ranked_samples_without_likelihoods_fail(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        talk.tokens(submit.request_id, [5, 6])

    gateway.controller.script = script
    with pytest.raises(LigerError, match="without their likelihoods"):
        await gateway.client.generate("chat", "x", best_of=2).text()


async def test_the_prompts_likelihoods_come_with_the_start(gateway: Gateway) -> None:
    stream = gateway.client.generate("bare", [5, 6, 7], prompt_logprobs=2, max_tokens=2)
    started = await anext(aiter(stream.events()))
    assert isinstance(started, Started)
    assert [item.token_id for item in started.prompt_logprobs] == [6, 7]
    assert [len(item.top_token_ids) for item in started.prompt_logprobs] == [2, 2]


async def test_a_prompt_of_one_token_has_no_likelihoods(gateway: Gateway) -> None:
    stream = gateway.client.generate("bare", [5], prompt_logprobs=0, max_tokens=2)
    await stream.text()
    assert stream.started
    assert stream.started.prompt_logprobs == ()


async def test_the_start_waits_for_the_prompts_likelihoods_alone(gateway: Gateway) -> None:
    """Another sample's tokens may come first."""

    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        talk.tokens(submit.request_id, [8], sample=1, reason=LENGTH)
        talk.tokens(submit.request_id, [9], prompt_logprobs=likelihoods(-1.0, [6]), reason=LENGTH)
        talk.finish(submit.request_id)

    gateway.controller.script = script
    events = [event async for event in gateway.client.generate("bare", [5, 6], n=2, prompt_logprobs=0).events()]
    assert isinstance(events[0], Started)
    assert [item.token_id for item in events[0].prompt_logprobs] == [6]
    assert sorted(event.index for event in events if isinstance(event, Finished)) == [0, 1]


async def test_a_failure_before_the_prompts_likelihoods_is_told(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        raise GroupFailedError("rank 1 died")

    gateway.controller.script = script
    with pytest.raises(GroupFailedError, match="rank 1 died"):
        await gateway.client.generate("bare", [5, 6], prompt_logprobs=0).text()


async def test_missing_likelihoods_of_the_prompt_are_not_passed_over(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        talk.tokens(submit.request_id, [9], reason=LENGTH)
        talk.finish(submit.request_id)

    gateway.controller.script = script
    with pytest.raises(LigerError, match="gave 0 likelihoods of the prompt's tokens, not 2"):
        await gateway.client.generate("bare", [5, 6, 7], prompt_logprobs=0).text()


async def test_likelihoods_of_a_prompt_that_fit_no_message_are_refused(gateway: Gateway) -> None:
    gateway.controller.models["bare"].info.max_length = 300_000
    await gateway.tell_catalogue()
    with pytest.raises(InvalidRequestError, match="do not fit a message") as caught:
        await gateway.client.generate("bare", [5] * 200_000, prompt_logprobs=20).text()
    assert caught.value.field == "prompt_logprobs"


async def test_saved_prefill_is_told(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        talk.tokens(submit.request_id, [9], reason=LENGTH)
        finished = controller_pb2.RequestFinished(request_id=submit.request_id)
        finished.usage.cached_tokens = 512
        finished.timings.saved_prefill_ns = 7
        talk.send(controller_pb2.ConnectResponse(finished=finished))

    gateway.controller.script = script
    messages = [
        message async for message in gateway.stub.Generate(pb.GenerateRequest(model="bare", token_ids={"ids": [5]}))
    ]
    assert (messages[-1].summary.usage.cached_tokens, messages[-1].summary.timings.saved_prefill_ns) == (512, 7)
