import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from liger.domain import Sampling
from worker.sampling.draw import Draw, Drawn
from worker.sampling.likelihood import joined_likelihood, shard_likelihood
from worker.sampling.sampler import Sampler
from worker.shards.partition import split


def draw_on(num_ranks: int, logits: torch.Tensor, draws: list[Draw]) -> list[Drawn]:
    """Draw as each of `num_ranks` ranks would, each from its own shard."""
    vocabulary = logits.shape[-1]
    shards = [split(vocabulary, num_ranks, rank) for rank in range(num_ranks)]
    ranks = [
        Sampler(shards, rank).candidates(logits[:, shard.start : shard.stop].clone(), draws)
        for rank, shard in enumerate(shards)
    ]
    parts = [rank.payload for rank in ranks]
    rests = []
    for rank in ranks:
        with contextlib.suppress(AskedError):
            rank.choose(parts, lambda rest: ask(rests, rest))
    return [rank.choose(parts, lambda _: rests) for rank in ranks]


class AskedError(Exception):
    pass


def ask(rests, rest):
    rests.append(rest)
    raise AskedError


def a_draw(position=3, banned=(), sample=0, **sampling):
    return Draw(sampling=Sampling(**sampling), sample=sample, position=position, banned=banned)


@st.composite
def batches(draw):
    vocabulary = draw(st.integers(5, 40))
    rows = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**30)))
    logits = torch.randn(rows, vocabulary, generator=generator) * 3
    draws = [
        a_draw(
            position=draw(st.integers(0, 50)),
            banned=tuple(draw(st.sets(st.integers(0, vocabulary - 1), max_size=vocabulary - 1))),
            temperature=draw(st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0])),
            top_k=draw(st.integers(0, vocabulary + 3)),
            top_p=draw(st.sampled_from([1.0, 0.9, 0.1])),
            min_p=draw(st.sampled_from([0.0, 0.05, 1.0])),
            seed=draw(st.integers(0, 2**64 - 1)),
            logprobs=draw(st.none() | st.integers(0, 4)),
        )
        for _ in range(rows)
    ]
    return logits, draws


@settings(max_examples=100, deadline=None)
@given(batch=batches(), num_ranks=st.integers(1, 5))
def test_draws_do_not_depend_on_the_number_of_ranks_and_all_ranks_agree(batch, num_ranks):
    logits, draws = batch
    (alone,) = draw_on(1, logits, draws)
    together = draw_on(num_ranks, logits, draws)
    assert all(drawn == alone for drawn in together)


@settings(max_examples=50, deadline=None)
@given(batch=batches())
def test_draws_do_not_depend_on_the_batch(batch):
    logits, draws = batch
    (together,) = draw_on(2, logits, draws)[:1]
    alone = [draw_on(2, logits[row : row + 1], [draw])[0].token_ids[0] for row, draw in enumerate(draws)]
    assert list(together.token_ids) == alone


@settings(max_examples=50, deadline=None)
@given(batch=batches())
def test_banned_ids_are_never_drawn(batch):
    logits, draws = batch
    for drawn in draw_on(2, logits, draws):
        assert all(token not in draw.banned for token, draw in zip(drawn.token_ids, draws, strict=True))


def test_greedy_takes_the_likeliest_and_the_lowest_id_of_equals():
    logits = torch.tensor([[0.0, 5.0, 1.0, 5.0, 2.0, 0.0]])
    for num_ranks in (1, 2, 3):
        assert draw_on(num_ranks, logits, [a_draw()])[0].token_ids == (1,)


def test_logprobs_are_of_the_model_itself_whatever_the_temperature_and_bans():
    logits = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    expected = logits.log_softmax(-1)
    draws = [a_draw(temperature=2.0, logprobs=3, banned=(4,)), a_draw(logprobs=0)]
    drawn = draw_on(3, logits, draws)[0]
    for row, (logprob, wanted) in enumerate(zip(drawn.logprobs, (3, 0), strict=True)):
        assert logprob.logprob == pytest.approx(expected[row, drawn.token_ids[row]].item(), abs=1e-6)
        values, ids = expected[row].topk(3)
        assert logprob.top_token_ids == tuple(ids.tolist())[:wanted]
        assert logprob.top_logprobs == pytest.approx(values.tolist()[:wanted], abs=1e-6)


def test_frequencies_follow_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]])
    probabilities = (logits / 0.7).softmax(-1)[0]
    count = 4000
    draws = [a_draw(position=position, temperature=0.7, seed=11) for position in range(count)]
    drawn = draw_on(2, logits.expand(count, -1), draws)[0]
    observed = torch.bincount(torch.tensor(drawn.token_ids), minlength=5).double()
    expected = probabilities.double() * count
    chi_square = ((observed - expected) ** 2 / expected).sum().item()
    assert chi_square < 18.5  # 4 degrees of freedom, p = 0.001; the seed is fixed


@settings(max_examples=50, deadline=None)
@given(num_ranks=st.integers(1, 5), seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 3.0, 60.0]))
def test_likelihood_from_shards_equals_the_whole_softmax(num_ranks, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(7, 23, generator=generator) * scale
    targets = torch.randint(0, 23, (7,), generator=generator)
    shards = [split(23, num_ranks, rank) for rank in range(num_ranks)]
    parts = torch.stack([shard_likelihood(logits[:, shard.start : shard.stop], targets, shard, 1) for shard in shards])
    expected = logits.log_softmax(-1)
    for row, logprob in enumerate(joined_likelihood(parts, targets.tolist(), [1] * 7)):
        assert logprob.logprob == pytest.approx(expected[row, targets[row]].item(), abs=1e-4)
        assert logprob.top_token_ids == (expected[row].argmax().item(),)
        assert logprob.top_logprobs[0] == pytest.approx(expected[row].max().item(), abs=1e-4)
