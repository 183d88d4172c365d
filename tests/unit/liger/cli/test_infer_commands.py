import json

import pytest

from liger.cli.tables import cosine
from liger.v1 import inference_pb2, types_pb2
from tests.unit.liger.cli.conftest import ACCOUNT, model


def answer(**result) -> inference_pb2.InferResponse:
    return inference_pb2.InferResponse(model="m", **result, **ACCOUNT)


def test_embed_shows_similarities_and_the_account(liger, gateway):
    vectors = [{"values": [1.0, 0.0]}, {"values": [0.6, 0.8]}, {"values": [0.0, 2.0]}]
    gateway.result = answer(embed=inference_pb2.EmbedResult(embeddings=vectors))

    done = liger("embed", "a cat", "a kitten", "a [GPU]")

    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1] == ["1", "a", "cat", "1.000", "0.600", "0.000"]
    assert rows[3] == ["3", "a", "[GPU]", "0.000", "0.800", "1.000"]
    assert "ranks w0, w1" in done.stderr
    assert gateway.asked[0].model == "embedder"


def test_embed_gives_vectors_as_json(liger, gateway):
    gateway.result = answer(embed=inference_pb2.EmbedResult(embeddings=[{"values": [1.0, 0.5], "num_tokens": 3}]))

    found = json.loads(liger("embed", "a cat", "--dimensions", "2", "--json").stdout)

    assert found["embeddings"] == [[1.0, 0.5]]
    assert gateway.asked[0].embed.dimensions == 2


def test_a_model_made_for_embeddings_is_taken_before_one_that_generates(liger, gateway):
    gateway.models = [
        model("chat", types_pb2.TASK_GENERATE, types_pb2.TASK_EMBED),
        model("embedder", types_pb2.TASK_EMBED),
    ]
    gateway.result = answer(embed=inference_pb2.EmbedResult(embeddings=[{"values": [1.0]}]))

    assert liger("embed", "a cat").exit_code == 0
    assert gateway.asked[0].model == "embedder"
    assert liger("embed", "a cat", "--model", "chat").exit_code == 0
    assert gateway.asked[1].model == "chat"


def test_score_compares_continuations(liger, gateway):
    tokens = [types_pb2.TokenLogprob(token_id=1, logprob=-1.0), types_pb2.TokenLogprob(token_id=2, logprob=-0.5)]
    scores = [{"logprob": -1.5, "tokens": tokens, "greedy": True}, {"logprob": -9.0, "tokens": tokens}]
    gateway.result = answer(score=inference_pb2.ScoreResult(scores=scores))

    done = liger("score", "--context", "Paris is in", "--continuation", " France", "--continuation", " Japan")

    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert rows == [["'", "France'", "-1.500", "2", "-0.750", "yes"], ["'", "Japan'", "-9.000", "2", "-4.500", "no"]]
    assert gateway.asked[0].score.items[1].continuation.text == " Japan"


def test_classify_shows_every_labels_probability(liger, gateway):
    gateway.models = [model("classifier", types_pb2.TASK_CLASSIFY)]
    found = inference_pb2.ClassifyResult(
        labels=["bad", "good"], classifications=[{"label": "good", "scores": [0.1, 0.9]}]
    )
    gateway.result = answer(classify=found)

    done = liger("classify", "nice", "--pair", "very")

    assert [line.split() for line in done.stdout.splitlines()] == [
        ["text", "label", "bad", "good"], ["nice", "good", "0.100", "0.900"],
    ]  # fmt: skip
    assert gateway.asked[0].classify.pairs[0].text == "very"


def test_classify_by_labels_takes_a_model_that_scores(liger, gateway):
    found = inference_pb2.ClassifyResult(
        labels=["bad", "good"], classifications=[{"label": "good", "scores": [0.1, 0.9]}]
    )
    gateway.result = answer(classify=found)

    done = liger("classify", "nice", "--label", "bad", "--label", "good")

    assert [line.split() for line in done.stdout.splitlines()] == [
        ["text", "label", "bad", "good"], ["nice", "good", "0.100", "0.900"],
    ]  # fmt: skip
    assert (gateway.asked[0].model, list(gateway.asked[0].classify.labels)) == ("chat", ["bad", "good"])


def test_rerank_shows_the_best_first(liger, gateway):
    gateway.models = [model("ranker", types_pb2.TASK_RERANK)]
    gateway.result = answer(
        rerank=inference_pb2.RerankResult(ranking=[{"index": 1, "score": 0.9}, {"index": 0, "score": 0.2}])
    )

    done = liger("rerank", "cats", "about dogs", "about cats", "--top-n", "2")

    assert [line.split()[:3] for line in done.stdout.splitlines()[1:]] == [
        ["2", "about", "cats"],
        ["1", "about", "dogs"],
    ]
    assert gateway.asked[0].rerank.top_n == 2


def test_wrong_usage_ends_with_2(liger):
    assert liger("embed").exit_code == 2
    assert liger("score", "--context", "x").exit_code == 2
    assert liger("nonsense").exit_code == 2


@pytest.mark.parametrize(("one", "other", "wanted"), [((1, 0), (0, 1), 0), ((2, 0), (3, 0), 1), ((0, 0), (1, 0), 0)])
def test_cosine_is_that_of_the_angle(one, other, wanted):
    assert cosine(one, other) == pytest.approx(wanted)
