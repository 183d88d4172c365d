"""What ranks computed becomes probabilities, rankings and sums."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import answers
from gateway.requests import Rerank
from gateway.work import ItemOutput
from liger.errors import LigerError
from liger.schedule import Logprob

LOGITS = st.floats(-1e4, 1e4)


@given(st.lists(LOGITS, min_size=1, max_size=8))
def test_softmax_sums_to_one_and_keeps_the_order(logits: list[float]) -> None:
    found = answers.probabilities(logits, independent=False)
    assert math.fsum(found) == pytest.approx(1.0)
    assert found.index(max(found)) == logits.index(max(logits)) or max(found) == found[logits.index(max(logits))]


@given(LOGITS)
def test_sigmoid_lies_between_zero_and_one_and_is_symmetric(logit: float) -> None:
    assert 0.0 <= answers.sigmoid(logit) <= 1.0
    assert answers.sigmoid(logit) + answers.sigmoid(-logit) == pytest.approx(1.0)


def test_sigmoid_of_known_values() -> None:
    assert answers.sigmoid(0.0) == 0.5
    assert answers.sigmoid(2.0) == pytest.approx(0.8807970779778823)


def test_equal_documents_keep_the_requests_order() -> None:
    outputs = [ItemOutput(item=index, values=(value,)) for index, value in enumerate([1.0, 3.0, 1.0, 3.0])]
    ranking = answers.ranking(outputs, Rerank(pairs=(), top_n=4, raw=True))
    assert [rank.index for rank in ranking] == [1, 3, 0, 2]


@pytest.mark.parametrize("values", [(), (1.0, 2.0)])
def test_a_document_needs_one_number(values: tuple[float, ...]) -> None:
    with pytest.raises(LigerError, match="one number a document"):
        answers.ranking([ItemOutput(item=0, values=values)], Rerank(pairs=(), top_n=1, raw=True))


def test_a_score_sums_its_tokens_and_is_greedy_if_each_was_the_likeliest() -> None:
    likely = Logprob(token_id=3, logprob=-0.1, top_token_ids=(3, 4))
    other = Logprob(token_id=4, logprob=-2.0, top_token_ids=(3, 4))
    unknown = Logprob(token_id=4, logprob=-2.0)
    assert answers.score(ItemOutput(item=0, logprobs=(likely, likely))).greedy
    assert not answers.score(ItemOutput(item=0, logprobs=(likely, other))).greedy
    assert not answers.score(ItemOutput(item=0, logprobs=(unknown,))).greedy
    assert answers.score(ItemOutput(item=0, logprobs=(likely, other))).logprob == pytest.approx(-2.1)
