"""Infer: many inputs in, the task's answer out."""

import asyncio
import math

import pytest

from liger.domain import Pooling
from liger.errors import (
    GroupFailedError,
    InputTooLongError,
    InvalidRequestError,
    LigerError,
    ModelFolderError,
    RequestCancelledError,
)
from liger.v1 import controller_pb2, types_pb2
from liger.v1 import inference_pb2 as pb
from tests.support.fake_controller import Conversation
from tests.unit.gateway import folders
from tests.unit.gateway.conftest import Gateway

CLS, SEP, A, B, C = 2, 3, 4, 5, 6
WORDS = " ".join("abcdefghij")  # ids 4 to 13


def items(gateway: Gateway) -> list[list[int]]:
    [submit] = gateway.controller.submits
    return [list(item.token_ids) for item in submit.encode.items]


async def test_embed_gives_one_vector_an_input(gateway: Gateway) -> None:
    reply = await gateway.client.embed("embedder", ["a b", [A, B, C]], request_id="e-1")
    assert items(gateway) == [[CLS, A, B, SEP], [A, B, C]]
    assert reply.embeddings == ((14.0, 4.0, 2.0), (15.0, 3.0, 4.0))
    assert reply.num_tokens == (4, 3)
    assert (reply.request_id, reply.model, reply.usage.prompt_tokens) == ("e-1", "embedder", 7)
    assert (reply.placement.group, reply.placement.epoch) == ("fake", 7)
    assert reply.timings.total_ns > 0


async def test_embed_takes_the_models_own_pooling_and_normalisation(gateway: Gateway) -> None:
    await gateway.client.embed("embedder", "a")
    await gateway.client.embed("embedder", "a", pooling=Pooling.CLS, normalize=False, dimensions=2)
    heads = [submit.encode.head.pool for submit in gateway.controller.submits]
    assert heads == [
        controller_pb2.PoolHead(pooling=types_pb2.POOLING_MEAN, normalize=True),
        controller_pb2.PoolHead(pooling=types_pb2.POOLING_CLS, normalize=False, dimensions=2),
    ]
    assert [submit.task for submit in gateway.controller.submits] == [types_pb2.TASK_EMBED] * 2


async def test_an_over_long_input_is_refused_with_the_numbers(gateway: Gateway) -> None:
    with pytest.raises(
        InputTooLongError, match=r"embed.inputs\[1\] has 22 tokens and model 'embedder' takes 16"
    ) as caught:
        await gateway.client.embed("embedder", ["a", " ".join(["b"] * 20)])
    assert caught.value.field == "embed.inputs[1]"
    assert gateway.controller.submits == []


async def test_truncate_cuts_inputs_at_their_end_and_keeps_special_tokens(gateway: Gateway) -> None:
    await gateway.client.embed("embedder", ["a " * 20, "b", [C] * 20], truncate=True)
    assert items(gateway) == [[CLS, *[A] * 14, SEP], [CLS, B, SEP], [C] * 16]


async def test_the_tokenizer_files_own_cuts_and_padding_are_not_used(gateway: Gateway) -> None:
    await gateway.client.embed("embedder", WORDS)
    assert items(gateway) == [[CLS, *range(4, 14), SEP]]


async def test_classify_gives_softmax_over_the_models_labels(gateway: Gateway) -> None:
    reply = await gateway.client.classify("sentiment", ["a", "b c"])
    logits = gateway.controller.values("sentiment", "classify", [CLS, A, SEP])
    weights = [math.exp(logit) for logit in logits]
    assert reply.labels == ("bad", "so-so", "good")
    assert reply.classifications[0].scores == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-6)
    assert reply.classifications[0].label == reply.labels[logits.index(max(logits))]
    assert [item.num_tokens for item in reply.classifications] == [3, 4]


async def test_classify_gives_raw_outputs_where_asked(gateway: Gateway) -> None:
    reply = await gateway.client.classify("sentiment", "a", raw=True)
    assert list(reply.classifications[0].scores) == gateway.controller.values("sentiment", "classify", [CLS, A, SEP])


async def test_labels_that_hold_at_once_have_independent_probabilities(gateway: Gateway) -> None:
    gateway.controller.models["sentiment"].info.multi_label = True
    await gateway.tell_catalogue()
    raw = (await gateway.client.classify("sentiment", "a", raw=True)).classifications[0].scores
    scores = (await gateway.client.classify("sentiment", "a")).classifications[0].scores
    assert scores == pytest.approx([1 / (1 + math.exp(-logit)) for logit in raw], abs=1e-6)


async def test_pairs_are_joined_by_the_models_rule_with_segment_ids(gateway: Gateway) -> None:
    await gateway.client.classify("sentiment", ["a b", "c"], pairs=["c", "a"])
    [submit] = gateway.controller.submits
    assert items(gateway) == [[CLS, A, B, SEP, C, SEP], [CLS, C, SEP, A, SEP]]
    assert [list(item.token_type_ids) for item in submit.encode.items] == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]


async def test_rerank_orders_documents_by_their_score(gateway: Gateway) -> None:
    reply = await gateway.client.rerank("ranker", "a", ["b", "c", "d e"])
    raw = [
        gateway.controller.values("ranker", "classify", [CLS, A, SEP, *document, SEP])[0]
        for document in ([B], [C], [7, 8])
    ]
    assert [rank.index for rank in reply.ranking] == sorted(range(3), key=lambda index: -raw[index])
    for rank in reply.ranking:
        assert rank.score == pytest.approx(1 / (1 + math.exp(-raw[rank.index])), abs=1e-6)
    [submit] = gateway.controller.submits
    assert (submit.task, submit.encode.head.WhichOneof("kind")) == (types_pb2.TASK_RERANK, "classify")


async def test_rerank_gives_the_best_few_and_raw_scores_where_asked(gateway: Gateway) -> None:
    everything = await gateway.client.rerank("ranker", "a", ["b", "c", "d e"], raw=True)
    best = await gateway.client.rerank("ranker", "a", ["b", "c", "d e"], raw=True, top_n=1)
    assert best.ranking == everything.ranking[:1]
    assert best.ranking[0].score in {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}


async def test_truncated_pairs_lose_the_longer_texts_end(gateway: Gateway) -> None:
    await gateway.client.rerank("ranker", "a b", [" ".join(["c"] * 40), "d"], truncate=True)
    assert items(gateway) == [[CLS, A, B, SEP, *[C] * 11, SEP], [CLS, A, B, SEP, 7, SEP]]


async def test_score_tokenises_context_and_continuation_apart(gateway: Gateway) -> None:
    reply = await gateway.client.score("chat", [("The capital", " of France")])
    context, continuation = (folders.byte_level().encode(text).ids for text in ("The capital", " of France"))
    [submit] = gateway.controller.submits
    assert list(submit.encode.items[0].token_ids) == context + continuation
    assert submit.encode.items[0].score_from == len(context)
    assert [token.token_id for token in reply.scores[0].tokens] == continuation
    assert reply.scores[0].logprob == pytest.approx(-sum(continuation) / 8)
    assert reply.scores[0].greedy == all(token % 2 == 0 for token in continuation)


async def test_score_with_a_model_that_begins_texts_scores_all_of_a_lone_continuation(gateway: Gateway) -> None:
    reply = await gateway.client.score("sentencepiece", [("", "a b")])
    [submit] = gateway.controller.submits
    assert submit.encode.items[0].token_ids[0] == 1  # <s>
    assert submit.encode.items[0].score_from == 1
    assert len(reply.scores[0].tokens) == len(submit.encode.items[0].token_ids) - 1


async def test_score_without_anything_before_leaves_the_first_token_out(gateway: Gateway) -> None:
    reply = await gateway.client.score("bare", [([], [10, 12, 14]), ([7], [8])])
    [submit] = gateway.controller.submits
    assert [item.score_from for item in submit.encode.items] == [1, 1]
    assert [[token.token_id for token in score.tokens] for score in reply.scores] == [[12, 14], [8]]
    assert [score.greedy for score in reply.scores] == [True, True]


async def test_one_token_without_context_has_no_likelihood(gateway: Gateway) -> None:
    with pytest.raises(InvalidRequestError, match="one token without a context") as caught:
        await gateway.client.score("bare", [([7], [8]), ([], [8])])
    assert caught.value.field == "score.items[1].continuation"


async def test_text_for_a_model_without_tokenizer_is_refused_with_the_way_out(gateway: Gateway) -> None:
    with pytest.raises(ModelFolderError, match=r"no tokenizer.json.*send token ids"):
        await gateway.client.embed("bare", "a")
    reply = await gateway.client.embed("bare", [[5, 6]])
    assert reply.embeddings == ((11.0, 2.0, 5.0),)


async def test_a_failure_of_the_group_is_told(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        raise GroupFailedError("rank 0 died", retry_after_s=1.0)

    gateway.controller.script = script
    with pytest.raises(GroupFailedError, match="rank 0 died"):
        await gateway.client.embed("embedder", "a")
    assert gateway.controller.cancels == []


@pytest.mark.parametrize("case", ["item out of range", "end too early", "tokens", "no classes"])
async def test_an_answer_that_makes_no_sense_fails_its_request_alone(gateway: Gateway, case: str) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        if submit.request_id != "odd":
            await gateway.controller.play(submit, talk)
        elif case == "item out of range":
            talk.output(submit.request_id, 1, [1.0])
        elif case == "tokens":
            talk.tokens(submit.request_id, [1])
        elif case == "no classes":
            talk.output(submit.request_id, 0, [])
        if submit.request_id == "odd":
            talk.finish(submit.request_id)

    gateway.controller.script = script
    with pytest.raises(LigerError) as caught:
        await gateway.client.classify("sentiment", "a", request_id="odd")
    assert caught.value.reason == "INTERNAL"
    assert (await gateway.client.classify("sentiment", "a")).labels == ("bad", "so-so", "good")


async def test_a_cancelled_infer_is_cancelled_at_the_controller(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        await asyncio.Event().wait()

    gateway.controller.script = script
    request = pb.InferRequest(request_id="gone", model="embedder", embed=pb.EmbedTask(inputs=[pb.Input(text="a")]))
    call = gateway.stub.Infer(request)
    await gateway.controller.until(lambda: gateway.controller.submits)
    call.cancel()
    await gateway.controller.until(lambda: gateway.controller.cancels)
    assert gateway.controller.cancels[0] == controller_pb2.Cancel(
        request_id="gone", reason=types_pb2.FINISH_REASON_CANCELLED
    )


async def test_a_cancel_by_the_controller_is_told(gateway: Gateway) -> None:
    async def script(submit: controller_pb2.Submit, talk: Conversation) -> None:
        raise RequestCancelledError("drained")

    gateway.controller.script = script
    with pytest.raises(RequestCancelledError, match="drained"):
        await gateway.client.embed("embedder", "a")


async def test_a_long_text_is_tokenised_like_a_short_one(gateway: Gateway) -> None:
    """Long ones leave the event loop; the result must not differ."""
    await gateway.client.embed("embedder", ["a b " * 2000], truncate=True)
    assert items(gateway) == [[CLS, *[A, B] * 7, SEP]]
