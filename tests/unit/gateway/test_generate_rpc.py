"""Generate: text streams back as it is made, ends where it should, and what nobody waits for is cancelled."""

import asyncio

import grpc.aio
import pytest

from liger.client import Delta, Finished, Message, Started, Summary
from liger.domain import FinishReason
from liger.errors import DeadlineError, GroupFailedError, LigerError
from liger.v1 import controller_pb2, types_pb2
from liger.v1 import inference_pb2 as pb
from liger.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.fake_controller import LENGTH, STOP, Conversation
from tests.unit.gateway import folders
from tests.unit.gateway.conftest import Gateway

NEUTRAL = {"typical_p": 1.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
EOS = folders.byte_level().token_to_id("<|im_end|>")


def ids(text: str) -> list[int]:
    return folders.byte_level().encode(text).ids


def answer(gateway: Gateway, prompt: str, continuation: list[int]) -> None:
    gateway.controller.continuations[tuple(ids(prompt))] = continuation


async def test_a_text_prompt_streams_started_deltas_finished_and_summary(gateway: Gateway) -> None:
    answer(gateway, "The capital", [*ids(" of France is Paris."), EOS])
    stream = gateway.client.generate("chat", "The capital", request_id="call-1")
    events = [event async for event in stream.events()]
    assert isinstance(events[0], Started)
    assert (events[0].request_id, events[0].model, events[0].seed) == ("call-1", "chat", None)
    assert events[0].num_prompt_tokens == len(ids("The capital"))
    deltas = [event for event in events if isinstance(event, Delta)]
    assert "".join(delta.text for delta in deltas) == " of France is Paris."
    assert [token for delta in deltas for token in delta.token_ids] == [*ids(" of France is Paris."), EOS]
    assert isinstance(events[-2], Finished)
    assert (events[-2].reason, events[-2].stop) == (FinishReason.STOP, "<|im_end|>")
    assert isinstance(events[-1], Summary)
    assert events[-1].usage.completion_tokens == len(ids(" of France is Paris.")) + 1
    assert events[-1].placement.worker_ids == ("w0", "w1")
    assert events[-1].timings.total_ns > 0


async def test_the_controller_gets_the_request_as_the_contract_says(gateway: Gateway) -> None:
    request = pb.GenerateRequest(
        request_id="full",
        model="chat",
        priority=-3,
        token_ids=types_pb2.TokenIds(ids=[5, 6]),
        sampling=types_pb2.SamplingParameters(temperature=0.5, top_k=7, top_p=0.9, min_p=0.1, seed=2**64 - 1),
        stop=pb.StopConditions(max_tokens=9, min_tokens=2, stop_token_ids=[8, EOS]),
        n=2,
        logprobs=3,
    )
    headers = (("traceparent", "00-aa-bb-01"), ("tracestate", "x=1"), ("baggage", "k=v"), ("other", "no"))
    async for _ in gateway.stub.Generate(request, timeout=20, metadata=headers):
        pass
    [submit] = gateway.controller.submits
    assert 0 < submit.timeout_s < 21  # gRPC rounds up on the wire
    submit.ClearField("timeout_s")
    assert submit == controller_pb2.Submit(
        request_id="full",
        model="chat",
        first_stream=1,
        task=types_pb2.TASK_GENERATE,
        priority=-3,
        trace_context={"traceparent": "00-aa-bb-01", "tracestate": "x=1", "baggage": "k=v"},
        generate=controller_pb2.GenerateWork(
            prompt_token_ids=[5, 6],
            sampling=types_pb2.SamplingParameters(
                temperature=0.5,
                top_k=7,
                top_p=0.9,
                min_p=0.1,
                seed=2**64 - 1,
                **NEUTRAL,
            ),
            num_samples=2,
            max_tokens=9,
            min_tokens=2,
            stop_token_ids=[EOS, 8],
            logprobs=3,
        ),
    )


async def test_a_call_without_deadline_has_none_at_the_controller(gateway: Gateway) -> None:
    async for _ in gateway.stub.Generate(pb.GenerateRequest(model="chat", text="fox")):
        pass
    assert not gateway.controller.submits[0].HasField("timeout_s")


async def test_chat_prompts_are_laid_out_by_the_models_template(gateway: Gateway) -> None:
    stream = gateway.client.generate("chat", [Message("user", "Hi fox")], max_tokens=1)
    await stream.text()
    expected = ids("<|im_start|>user\nHi fox<|im_end|>\n<|im_start|>assistant\n")
    assert list(gateway.controller.submits[0].generate.prompt_token_ids) == expected


async def test_text_prompts_get_the_models_special_tokens(gateway: Gateway) -> None:
    await gateway.client.generate("sentencepiece", "a b", max_tokens=1).text()
    assert gateway.controller.submits[0].generate.prompt_token_ids[0] == 1  # <s>


async def test_max_tokens_defaults_to_what_the_context_leaves(gateway: Gateway) -> None:
    await gateway.client.generate("chat", [5] * 60).text()
    await gateway.client.generate("chat", [5] * 60, max_tokens=1000).text()
    assert [submit.generate.max_tokens for submit in gateway.controller.submits] == [4, 4]


async def test_generation_config_names_the_ends_before_the_model_does(gateway: Gateway) -> None:
    await gateway.client.generate("chat", "fox").text()
    await gateway.client.generate("sentencepiece", "a").text()
    await gateway.client.generate("chat", "fox", ignore_eos=True, stop_token_ids=[9, 9]).text()
    stops = [list(submit.generate.stop_token_ids) for submit in gateway.controller.submits]
    assert stops == [[EOS], [2], [9]]


async def test_a_seed_is_drawn_and_reported_when_sampling_without_one(gateway: Gateway) -> None:
    drawn = gateway.client.generate("chat", "fox", temperature=1.0)
    await drawn.text()
    given = gateway.client.generate("chat", "fox", temperature=1.0, seed=0)
    await given.text()
    greedy = gateway.client.generate("chat", "fox", seed=5)
    await greedy.text()
    seeds = [submit.generate.sampling.seed for submit in gateway.controller.submits]
    assert drawn.started
    assert given.started
    assert greedy.started
    assert (seeds[0], seeds[1]) == (drawn.started.seed, given.started.seed)
    assert seeds[0] != 0
    assert given.started.seed == 0
    assert greedy.started.seed is None


async def test_characters_split_over_tokens_come_whole(gateway: Gateway) -> None:
    text = " 🦊 你好 🇫🇷"
    answer(gateway, "fox", [*ids(text), EOS])
    stream = gateway.client.generate("chat", "fox")
    pieces = [piece async for piece in stream]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


async def test_several_samples_stream_side_by_side(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        for sample, word in ((1, " red"), (0, " blue"), (2, " fox")):
            talk.tokens(submit.request_id, ids(word), sample=sample, reason=LENGTH)
        talk.finish(submit.request_id)

    gateway.controller.script = script
    stream = gateway.client.generate("chat", "x", n=3)
    texts = {0: "", 1: "", 2: ""}
    async for event in stream.events():
        if isinstance(event, Delta):
            texts[event.index] += event.text
    assert texts == {0: " blue", 1: " red", 2: " fox"}
    assert [finished.index for finished in stream.finished] == [0, 1, 2]
    assert stream.usage
    assert stream.usage.completion_tokens == sum(len(ids(word)) for word in (" red", " blue", " fox"))


async def test_logprobs_come_with_their_tokens(gateway: Gateway) -> None:
    answer(gateway, "fox", [6, 7, EOS])
    stream = gateway.client.generate("chat", "fox", logprobs=2)
    likelihoods = [item async for event in stream.events() if isinstance(event, Delta) for item in event.logprobs]
    assert [item.token_id for item in likelihoods] == [6, 7, EOS]
    assert likelihoods[0].logprob == -0.75
    assert len(likelihoods[0].top_token_ids) == len(likelihoods[0].top_logprobs) == 2


@pytest.mark.parametrize(("include_stop", "expected"), [(False, "red, green"), (True, "red, green and")])
async def test_a_stop_string_across_tokens_cuts_the_text_and_cancels_the_sample(
    gateway: Gateway, include_stop: bool, expected: str
) -> None:
    tokens = ids("red, green and blue are colours")

    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        for offset, token in enumerate(tokens):
            talk.tokens(submit.request_id, [token], offset=offset)
        await gateway.controller.until(lambda: gateway.controller.cancels)
        talk.tokens(submit.request_id, [], offset=len(tokens), reason=STOP)
        talk.finish(submit.request_id, completion_tokens=len(tokens))

    gateway.controller.script = script
    stream = gateway.client.generate(
        "chat", "x", request_id="stopped", stop=[" and", "never"], include_stop=include_stop
    )
    assert await stream.text() == expected
    [finished] = stream.finished
    assert (finished.reason, finished.stop) == (FinishReason.STOP, " and")
    assert finished.num_tokens < len(tokens)
    assert stream.usage
    assert stream.usage.completion_tokens == finished.num_tokens
    assert gateway.controller.cancels == [controller_pb2.Cancel(request_id="stopped", sample=0, reason=STOP)]


async def test_a_stop_string_in_one_sample_leaves_the_others(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        talk.tokens(submit.request_id, ids("blue END"), sample=0)
        talk.tokens(submit.request_id, ids("green"), sample=1)
        await gateway.controller.until(lambda: gateway.controller.cancels)
        talk.tokens(submit.request_id, ids(" and red"), sample=1, offset=len(ids("green")), reason=LENGTH)
        talk.finish(submit.request_id)

    gateway.controller.script = script
    stream = gateway.client.generate("chat", "x", n=2, stop="END")
    texts = ["", ""]
    async for event in stream.events():
        if isinstance(event, Delta):
            texts[event.index] += event.text
    assert texts == ["blue ", "green and red"]
    assert [cancel.sample for cancel in gateway.controller.cancels] == [0]
    assert [finished.reason for finished in stream.finished] == [FinishReason.STOP, FinishReason.LENGTH]


async def test_what_may_begin_a_stop_string_is_given_out_at_the_end(gateway: Gateway) -> None:
    answer(gateway, "x", [*ids("the EN"), EOS])
    stream = gateway.client.generate("chat", "x", stop="END")
    assert await stream.text() == "the EN"
    assert stream.finished[0].stop == "<|im_end|>"


async def test_a_stop_string_does_not_count_before_min_tokens(gateway: Gateway) -> None:
    tokens = ids("END here END")
    answer(gateway, "x", [*tokens, EOS])
    stream = gateway.client.generate("chat", "x", stop="END", min_tokens=len(ids("END")) + 1)
    assert await stream.text() == "END here "


async def test_a_clients_stop_token_is_named_and_has_no_text(gateway: Gateway) -> None:
    [dot] = ids(".")
    answer(gateway, "x", [*ids("fox"), dot])
    stream = gateway.client.generate("chat", "x", stop_token_ids=[dot])
    assert await stream.text() == "fox"
    assert (stream.finished[0].reason, stream.finished[0].stop) == (FinishReason.STOP, ".")
    shown = gateway.client.generate("chat", "x", stop_token_ids=[dot], include_stop=True)
    assert await shown.text() == "fox."


async def test_a_model_without_tokenizer_gives_token_ids(gateway: Gateway) -> None:
    gateway.controller.continuations[3, 4] = [7, 8, 9]
    stream = gateway.client.generate("bare", [3, 4])
    tokens = [token async for event in stream.events() if isinstance(event, Delta) for token in event.token_ids]
    assert tokens == [7, 8, 9]


async def test_tokens_that_come_twice_are_given_once(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        tokens = ids("the lazy dog")
        talk.tokens(submit.request_id, tokens[:2])
        talk.tokens(submit.request_id, tokens[1:], offset=1, reason=LENGTH)
        talk.finish(submit.request_id)

    gateway.controller.script = script
    assert await gateway.client.generate("chat", "x").text() == "the lazy dog"


async def test_missing_tokens_fail_the_request_and_cancel_it(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        talk.tokens(submit.request_id, [5], offset=3)

    gateway.controller.script = script
    with pytest.raises(LigerError, match="tokens 0 to 2 of sample 0 are missing"):
        await gateway.client.generate("chat", "x", request_id="gap").text()
    await gateway.controller.until(lambda: gateway.controller.cancels)
    assert gateway.controller.cancels[0].request_id == "gap"


async def test_a_failure_after_some_text_ends_the_stream_with_its_error(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        talk.tokens(submit.request_id, ids("the"))
        raise GroupFailedError("rank 1 died; try again", retry_after_s=2.5)

    gateway.controller.script = script
    stream = gateway.client.generate("chat", "x")
    pieces = aiter(stream)
    assert await anext(pieces) == "the"
    with pytest.raises(GroupFailedError, match="rank 1 died") as caught:
        await anext(pieces)
    assert caught.value.retry_after_s == 2.5


async def test_a_clients_cancel_reaches_the_controller(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        talk.tokens(submit.request_id, ids("the"))

    gateway.controller.script = script
    stream = gateway.client.generate("chat", "x", request_id="given-up")
    async for _ in stream:
        await stream.close()
        break
    await gateway.controller.until(lambda: gateway.controller.cancels)
    expected = controller_pb2.Cancel(request_id="given-up", reason=types_pb2.FINISH_REASON_CANCELLED)
    assert gateway.controller.cancels == [expected]


async def test_an_expired_deadline_reaches_the_controller(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        await asyncio.Event().wait()

    gateway.controller.script = script
    await gateway.client.tokenize("chat", "the tokenizer is there before the clock runs")
    with pytest.raises(DeadlineError):
        await gateway.client.generate("chat", "x", request_id="late", timeout_s=0.5).text()
    await gateway.controller.until(lambda: gateway.controller.cancels)
    assert gateway.controller.cancels[0].request_id == "late"


async def test_a_slow_reader_holds_up_nobody_and_gets_all_at_last(gateway: Gateway) -> None:
    """The slow call's messages fill its window; its tokens wait in one delta, not one event each."""
    num_tokens = 20_000
    word = ids("fox")
    sent = asyncio.Event()

    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        if submit.request_id != "slow":
            await gateway.controller.play(submit, talk)
            return
        for offset in range(num_tokens):
            talk.tokens(submit.request_id, [word[0]], offset=offset, reason=LENGTH if offset == num_tokens - 1 else 0)
        talk.finish(submit.request_id)
        sent.set()

    gateway.controller.script = script
    gateway.controller.models["chat"].info.max_length = 100_000
    await gateway.tell_catalogue()
    request = pb.GenerateRequest(request_id="slow", model="chat", text="x")
    request.stop.max_tokens = num_tokens
    text = ""
    num_deltas = 0
    narrow = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384))
    async with grpc.aio.insecure_channel(gateway.address, options=narrow) as channel:
        call = InferenceServiceStub(channel).Generate(request)
        await sent.wait()
        assert await gateway.client.generate("chat", "fox").text() == "fox"
        while (message := await call.read()) is not grpc.aio.EOF:
            text += message.delta.text
            num_deltas += message.HasField("delta")
    assert text == folders.byte_level().decode([word[0]] * num_tokens)
    assert num_deltas < num_tokens / 2
