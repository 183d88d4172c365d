"""Whatever the partition and the batch, what is drawn is what the plain sampler draws from the whole vocabulary."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.worker.sampling.drawing import Ask, Ranks, ask, draw_often, draw_on, even_shards
from tests.unit.worker.sampling.plain_sampler import draw_plainly

NEARLY_ONE = 1.0 - 2.0**-30


@pytest.fixture(autouse=True, scope="module")
def _few_candidates() -> Iterator[None]:
    """Let vocabularies of some hundred tokens need the second exchange."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.sampling.forms._NUM_CANDIDATES", 128)
        patch.setattr("worker.sampling.forms._NUM_EQUALS", 1)
        yield


@st.composite
def samplings(draw: st.DrawFn, vocabulary: int) -> dict[str, object]:
    ids = st.sets(st.integers(0, vocabulary - 1), max_size=vocabulary)
    biases = draw(
        st.dictionaries(st.integers(0, vocabulary - 1), st.sampled_from([-100.0, -1.5, 0.7, 3.0]), max_size=4)
    )
    return {
        "temperature": draw(st.sampled_from([0.0, 0.3, 1.0, 1.7])),
        "top_k": draw(st.sampled_from([0, 0, 1, 3, vocabulary - 1, vocabulary, vocabulary + 3])),
        "top_p": draw(st.sampled_from([1.0, 1.0, 0.9, 0.5, 1e-9, NEARLY_ONE])),
        "min_p": draw(st.sampled_from([0.0, 0.0, 0.05, 1.0])),
        "typical_p": draw(st.sampled_from([1.0, 1.0, 0.9, 0.2])),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.3, 0.6])),
        "presence_penalty": draw(st.sampled_from([0.0, 1.1, -0.4])),
        "frequency_penalty": draw(st.sampled_from([0.0, 0.5, -2.0])),
        "logit_bias": tuple(sorted(biases.items())),
        "allowed_token_ids": tuple(sorted(draw(st.just(()) | ids))),
        "banned_token_ids": tuple(sorted(draw(st.just(()) | ids))),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "logprobs": draw(st.none() | st.integers(0, 20)),
    }


@st.composite
def asks(draw: st.DrawFn, vocabulary: int) -> Ask:
    tokens = st.lists(st.integers(0, vocabulary - 1), max_size=8).map(tuple)
    mask = None
    if draw(st.booleans()):
        mask = torch.rand(vocabulary, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) < 0.5
    return ask(
        prompt=draw(tokens),
        output=draw(tokens),
        min_tokens=draw(st.integers(0, 10)),
        stop=tuple(sorted(draw(st.sets(st.integers(0, vocabulary - 1), max_size=3)))),
        mask=mask,
        sample=draw(st.integers(0, 3)),
        **draw(samplings(vocabulary)),
    )


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, list[Ask]]:
    vocabulary = draw(st.sampled_from([5, 6, 13, 40, 40, 300]))
    rows = draw(st.lists(asks(vocabulary), min_size=1, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**30)))
    logits = torch.randn(len(rows), vocabulary, generator=generator) * draw(st.sampled_from([0.01, 1.0, 3.0]))
    if draw(st.booleans()):
        logits = logits.round(decimals=draw(st.integers(0, 1)))  # many are equal
    return logits, rows


@st.composite
def partitions(draw: st.DrawFn, size: int) -> list[range]:
    num_ranks = draw(st.sampled_from([1, 2, 3, 5]))
    cuts = sorted(draw(st.sets(st.integers(1, size - 1), min_size=num_ranks - 1, max_size=num_ranks - 1)))
    bounds = [0, *cuts, size]
    return [range(start, stop) for start, stop in pairwise(bounds)]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_partition_draws_what_the_definition_says(data: st.DataObject) -> None:
    logits, rows = data.draw(batches())
    shards = data.draw(partitions(logits.shape[-1]))
    drawn = Ranks(shards, rows).draw(logits)
    expected = [draw_plainly(own, one) for own, one in zip(logits.tolist(), rows, strict=True)]
    assert list(drawn.token_ids) == expected
    assert drawn == draw_on(1, logits, rows)


@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_draws_do_not_depend_on_the_batch(batch: tuple[Tensor, list[Ask]]) -> None:
    logits, rows = batch
    together = draw_on(2, logits, rows).token_ids
    alone = [draw_on(2, logits[row : row + 1], [one]).token_ids[0] for row, one in enumerate(rows)]
    assert list(together) == alone


@pytest.mark.parametrize(
    "sampling",
    [{"top_p": 0.9}, {"typical_p": 0.6}, {"min_p": 0.5}, {"top_k": 3}, {"top_p": 0.5, "typical_p": 0.5}],
    ids=str,
)
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_rows_that_the_candidates_do_not_cover_are_drawn_from_the_whole(
    sampling: dict[str, float], num_ranks: int
) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = (torch.randn(6, 1501, generator=generator) * 0.1).round(decimals=1)
    rows = [ask(temperature=1.0, seed=row, logprobs=2, **sampling) for row in range(len(logits))]
    ranks = Ranks(even_shards(1501, num_ranks), rows)
    drawn = ranks.draw(logits)
    assert ranks.num_asked > 0
    assert list(drawn.token_ids) == [draw_plainly(own, one) for own, one in zip(logits.tolist(), rows, strict=True)]
    expected = logits.log_softmax(-1)
    for row, logprob in enumerate(drawn.logprobs):
        assert logprob.logprob == pytest.approx(expected[row, drawn.token_ids[row]].item(), abs=1e-5)


def test_only_undecided_rows_are_gathered_again() -> None:
    flat, peaked = torch.zeros(600), torch.zeros(600)
    peaked[7] = 50.0
    rows = [ask(temperature=1.0, top_p=0.9), ask(temperature=1.0, top_p=0.9), ask()]
    ranks = Ranks(even_shards(600, 2), rows)
    ranks.draw(torch.stack([peaked, peaked, flat]))
    assert ranks.num_asked == 0
    assert ranks.draw(torch.stack([peaked, flat, flat])).token_ids[0] == 7
    assert ranks.num_asked == 300


def test_rows_without_filters_send_no_more_than_two_numbers() -> None:
    rows = [ask(), ask(temperature=1.0)]
    ranks = Ranks(even_shards(50_000, 2), rows)
    logits = torch.zeros(2, 50_000)
    ranks.draw(logits)
    assert ranks.num_asked == 0
    assert len(ranks.payload(logits)) == 4


def test_greedy_takes_the_likeliest_and_the_lowest_id_of_equals() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0, 5.0, 2.0, 0.0]])
    for num_ranks in (1, 2, 3):
        assert draw_on(num_ranks, logits, [ask()]).token_ids == (1,)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
@pytest.mark.parametrize(("stop", "expected"), [((4, 2), 2), ((), 0), ((900,), 0)])
def test_where_nothing_may_be_drawn_all_ranks_draw_the_lowest_stop_token(
    temperature: float, top_p: float, stop: tuple[int, ...], expected: int
) -> None:
    logits = torch.randn(1, 7, generator=torch.Generator().manual_seed(1))
    one = ask(temperature=temperature, top_p=top_p, mask=torch.zeros(7, dtype=torch.bool), stop=stop, logprobs=1)
    for num_ranks in (1, 2, 3, 5):
        drawn = draw_on(num_ranks, logits, [one])
        assert drawn.token_ids == (expected,)
        assert drawn.logprobs[0].logprob == pytest.approx(logits.log_softmax(-1)[0, expected].item(), abs=1e-6)


def test_a_stop_token_may_come_early_if_the_grammar_allows_nothing_else() -> None:
    logits = torch.zeros(1, 6)
    mask = torch.zeros(6, dtype=torch.bool)
    mask[3] = True
    early = ask(min_tokens=4, stop=(3,), mask=mask)
    assert draw_on(2, logits, [early]).token_ids == (3,)
    assert draw_on(2, logits, [replace(early, mask=None)]).token_ids == (0,)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}], ids=str)
def test_a_model_that_gives_no_numbers_still_gives_the_same_known_id_on_all_ranks(sampling: dict[str, float]) -> None:
    logits = torch.full((1, 9), torch.nan)
    for num_ranks in (1, 2, 3):
        assert 0 <= draw_on(num_ranks, logits, [ask(**sampling)]).token_ids[0] < 9


@pytest.mark.parametrize("temperature", [1e-45, 1e-7, 100.0])
def test_extreme_temperatures_and_penalties_draw_a_token(temperature: float) -> None:
    logits = torch.tensor([[30.0, -30.0, 29.0, 0.0]])
    one = ask(temperature=temperature, top_p=0.9, repetition_penalty=1e-30, prompt=(0, 1), seed=1)
    assert draw_on(2, logits, [one]).token_ids == draw_on(1, logits, [one]).token_ids


@pytest.mark.parametrize("size", [6, 10])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_where_a_mass_ends_exactly_does_not_depend_on_how_it_was_added(size: int, num_ranks: int) -> None:
    logits = torch.arange(size) * -0.1
    weights = [math.exp(logit) for logit in logits.tolist()]
    for count in range(1, size):
        mass = math.fsum(weights[:count]) / math.fsum(weights)
        counts = draw_often(30 * count, logits, ask(temperature=1.0, top_p=mass, seed=count), num_ranks)
        assert counts[:count].all()
        assert not counts[count:].any()
