"""On a device, draws are launched without waiting for it: shown by tensors that have no values to wait for."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from tests.unit.worker.sampling.drawing import Ask, Outcome, Ranks, ask, even_shards
from tests.unit.worker.sampling.placement import Placement
from worker.sampling.draw import Drawn, needs_host
from worker.sampling.likelihood import shard_likelihood
from worker.sampling.sampler import Sampler

SIZE, DEVICE = 3000, torch.device("meta")
FREE = {
    "greedy": [ask()] * 3,
    "warm": [ask(temperature=0.7, seed=3)] * 3,
    "both": [ask(), ask(temperature=1.0), ask()],
    "likelihoods": [ask(logprobs=5), ask(temperature=0.5, logprobs=2), ask(logprobs=0)],
    "stop tokens that come too early": [ask(min_tokens=9, stop=(3, 4)), ask(temperature=1.0)],
    "biases": [ask(logit_bias=((3, 1.0), (2900, -1.0))), ask()],
    "penalties": [ask(prompt=(1, 5, 2000), repetition_penalty=1.2, frequency_penalty=0.3, temperature=1.0)],
    "lists of tokens": [ask(allowed_token_ids=(4, 5, 2800)), ask(banned_token_ids=(0,), temperature=1.0)],
    "a grammar": [ask(mask=torch.ones(SIZE, dtype=torch.bool)), ask()],
    "few candidates": [ask(temperature=1.0, top_k=SIZE - 1, top_p=0.5)],
}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A device without values: an operation that would need one fails."""
    for module in ("adjust", "controls"):
        monkeypatch.setattr(f"worker.sampling.{module}.put", lambda host, device: host.to(device))
    with Placement():
        yield


def stage(values: Sequence[float], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype).to(DEVICE)


def draw_there(asks: Sequence[Ask], num_ranks: int = 2) -> Drawn:
    shards = even_shards(SIZE, num_ranks)
    ranks = Ranks(shards, asks)
    logits = torch.zeros(len(asks), len(shards[0]), device=DEVICE)
    masks = [one.mask for one in asks]
    candidates = Sampler(shards, 0, stage).candidates(logits, ranks.draws(), masks)
    return candidates.choose([candidates.payload] * num_ranks, lambda part: [part] * num_ranks)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", FREE)
def test_draws_without_filters_do_not_wait(name: str) -> None:
    drawn = draw_there(FREE[name])
    drawn.read(lambda tensor: tensor)
    assert drawn.tokens.device == DEVICE
    assert drawn.tokens.shape == (len(FREE[name]),)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("sampling", [{"top_p": 0.9}, {"top_k": 5}, {"typical_p": 0.9}], ids=str)
def test_filters_wait_once_to_find_what_is_undecided(sampling: dict[str, float]) -> None:
    with pytest.raises(NotImplementedError) as caught:
        draw_there([ask(temperature=1.0, **sampling), ask()])
    assert "_settle" in [entry.name for entry in caught.traceback]


@pytest.mark.usefixtures("device")
def test_likelihoods_of_given_tokens_do_not_wait() -> None:
    logits = torch.zeros(4, 1500, device=DEVICE)
    part = shard_likelihood(logits, torch.zeros(4, dtype=torch.int64, device=DEVICE), range(1500), 20)
    assert part.device == DEVICE


def test_an_empty_batch_draws_nothing() -> None:
    candidates = Sampler(even_shards(SIZE, 2), 0).candidates(torch.zeros(0, SIZE // 2), [])
    assert len(candidates.payload) == 0
    assert Outcome.of(candidates.choose([candidates.payload] * 2, lambda part: [part] * 2)) == Outcome((), ())


def test_what_was_drawn_is_read_from_the_fetched_copies_alone() -> None:
    asks = [ask(logprobs=2), ask(temperature=1.0, seed=1), ask(temperature=1.0, top_p=0.9, logprobs=1)]
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    shards = even_shards(40, 2)
    ranks = Ranks(shards, asks)
    drawn = ranks._choose([ranks._candidates(rank, logits) for rank in range(2)])[0]
    copies: list[Callable[[], object]] = []

    def fetch(tensor: Tensor) -> Tensor:
        copy = torch.zeros_like(tensor)
        copies.append(lambda: copy.copy_(tensor))
        return copy

    read = drawn.read(fetch)
    for copy in copies:
        copy()
    drawn.tokens.zero_()
    assert Outcome(*read()) == Ranks(shards, asks).draw(logits)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (ask(), False),
        (ask(logit_bias=((1, 1.0),)), False),
        (ask(temperature=1.0, top_p=0.5, logprobs=3), False),
        (ask(frequency_penalty=0.1), True),
        (ask(repetition_penalty=1.1), True),
    ],
)
def test_the_host_is_told_of_tokens_that_change_later_draws(one: Ask, expected: bool) -> None:
    assert needs_host(Ranks(even_shards(9, 1), [one, ask()]).draws()) is expected
