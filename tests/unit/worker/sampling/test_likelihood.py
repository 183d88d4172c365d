import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.worker.sampling.drawing import ask, draw_on, even_shards
from worker.sampling.likelihood import Likelihoods, shard_likelihood
from worker.sampling.masses import join_masses, shard_masses
from worker.sampling.ranking import first_tokens
from worker.sampling.transfers import fetch_here


@settings(max_examples=60, deadline=None)
@given(
    num_ranks=st.integers(1, 5),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.1, 3.0, 60.0]),
    num_rivals=st.integers(0, 20),
)
def test_likelihood_from_shards_equals_the_whole_softmax(
    num_ranks: int, seed: int, scale: float, num_rivals: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(7, 23, generator=generator) * scale
    targets = torch.randint(0, 23, (7,), generator=generator)
    shards = even_shards(23, num_ranks)
    told = min(num_rivals, len(shards[0]))
    parts = [shard_likelihood(logits[:, shard.start : shard.stop], targets, shard, told) for shard in shards]
    expected = logits.double().log_softmax(-1)
    values, ids = expected.topk(20, dim=-1)
    read = Likelihoods(torch.stack(parts), [num_rivals] * 7).read(fetch_here)
    for row, logprob in enumerate(read(targets.tolist())):
        assert logprob.token_id == targets[row]
        assert logprob.logprob == pytest.approx(expected[row, targets[row]].item(), rel=1e-6)
        count = min(num_rivals, told * num_ranks)
        assert logprob.top_token_ids[:count] == tuple(ids[row, :count].tolist())
        assert logprob.top_logprobs[:count] == pytest.approx(values[row, :count].tolist(), rel=1e-6)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.8}, {"top_k": 4}], ids=str)
def test_logprobs_are_of_the_model_itself_whatever_the_controls(filters: dict[str, float], num_ranks: int) -> None:
    logits = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    expected = logits.log_softmax(-1)
    chance = ask(
        temperature=2.0, logprobs=20, banned_token_ids=(4,), repetition_penalty=1.5, prompt=(1, 2), seed=3, **filters
    )
    drawn = draw_on(num_ranks, logits, [chance, ask(logprobs=0, logit_bias=((5, 9.0),))])
    for row, (logprob, wanted) in enumerate(zip(drawn.logprobs, (20, 0), strict=True)):
        assert logprob.token_id == drawn.token_ids[row]
        assert logprob.logprob == pytest.approx(expected[row, drawn.token_ids[row]].item(), abs=1e-6)
        values, ids = expected[row].topk(20)
        assert logprob.top_token_ids == tuple(ids.tolist())[:wanted]
        assert logprob.top_logprobs == pytest.approx(values.tolist()[:wanted], abs=1e-6)


def test_only_draws_that_ask_get_likelihoods_in_their_order() -> None:
    rows = [ask(), ask(logprobs=1, temperature=1.0), ask(temperature=1.0, top_p=0.5), ask(logprobs=0)]
    drawn = draw_on(2, torch.randn(4, 30, generator=torch.Generator().manual_seed(2)), rows)
    assert [one.token_id for one in drawn.logprobs] == [drawn.token_ids[1], drawn.token_ids[3]]


def test_of_equally_likely_rivals_the_lowest_ids_are_told() -> None:
    for num_ranks in (1, 2, 3):
        (logprob,) = draw_on(num_ranks, torch.zeros(1, 500), [ask(logprobs=5)]).logprobs
        assert logprob.top_token_ids == (0, 1, 2, 3, 4)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.lists(st.integers(-2, 2), min_size=9, max_size=9), min_size=1), count=st.integers(0, 9))
def test_the_first_tokens_are_by_value_then_place(rows: list[list[int]], count: int) -> None:
    values, places = first_tokens(torch.tensor(rows, dtype=torch.float32), count)
    expected = [sorted(range(9), key=lambda place: (-row[place], place))[:count] for row in rows]
    assert places.tolist() == expected
    assert values.tolist() == [[row[place] for place in own] for row, own in zip(rows, expected, strict=True)]


@settings(max_examples=50, deadline=None)
@given(num_ranks=st.integers(1, 4), scale=st.sampled_from([0.1, 10.0, 1e4]), num_forbidden=st.integers(0, 30))
def test_masses_of_shards_make_up_those_of_the_whole(num_ranks: int, scale: float, num_forbidden: int) -> None:
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(num_forbidden)) * scale
    logits[:, :num_forbidden] = -torch.inf
    parts = [shard_masses(logits[:, shard.start : shard.stop]) for shard in even_shards(30, num_ranks)]
    masses = join_masses(torch.stack(parts))
    if num_forbidden == 30:
        assert masses.total.tolist() == [0.0] * 3
        return
    allowed = logits[:, num_forbidden:].double()
    probabilities = allowed.softmax(-1)
    entropy = torch.special.entr(probabilities).sum(-1)
    assert torch.allclose(masses.largest + masses.total.log(), allowed.logsumexp(-1), rtol=1e-14)
    assert torch.allclose(masses.total.log() - masses.moment / masses.total, entropy, rtol=1e-12, atol=1e-12)
