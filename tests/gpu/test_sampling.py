"""Draws on the device are those of the host, on any number of ranks, and launching them waits for nothing."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.worker.encoding import encode, hidden_states, predict
from tests.unit.worker.sampling.drawing import Ask, Outcome, Ranks, ask, even_shards
from tests.unit.worker.sampling.test_waiting import FREE
from tests.unit.worker.sampling.test_waiting import SIZE as FREE_SIZE
from worker.sampling.masses import join_masses, shard_masses
from worker.sampling.noise import gumbel_noise, noise_key
from worker.sampling.picking import PickNoisy, pick_noisy
from worker.sampling.ranking import first_tokens
from worker.sampling.sampler import Sampler
from worker.sampling.transfers import fetch_pinned, pinned_stage

SIZE = 3001
MASK = torch.arange(SIZE) % 3 != 0
CONTROLS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "warm": {"temperature": 0.8},
    "top-k": {"temperature": 0.9, "top_k": 40},
    "top-p": {"temperature": 1.1, "top_p": 0.9},
    "min-p": {"temperature": 1.0, "min_p": 0.05},
    "typical-p": {"temperature": 1.0, "typical_p": 0.8},
    "filters": {"temperature": 1.0, "top_k": 100, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9},
    "penalties": {
        "temperature": 0.7,
        "prompt": (1, 5, 2000),
        "output": (7, 7, 2999),
        "repetition_penalty": 1.3,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.2,
    },
    "biases": {"logit_bias": ((4, 3.0), (2500, 5.5), (9000, 1.0))},
    "allowed": {"temperature": 1.0, "allowed_token_ids": tuple(range(50, 2900, 7))},
    "banned": {"banned_token_ids": tuple(range(0, 3000, 2)), "min_tokens": 9, "stop": (1, 3)},
    "grammar": {"temperature": 1.0, "mask": MASK},
    "nothing": {"mask": torch.zeros(SIZE, dtype=torch.bool), "stop": (8, 4)},
}


def device_ranks(shards: Sequence[range], asks: Sequence[Ask], pick: PickNoisy) -> Ranks:
    def fetch(tensor: Tensor) -> Tensor:
        copy = fetch_pinned(tensor)
        torch.cuda.synchronize()
        return copy

    return Ranks(shards, asks, fetch, stage=pinned_stage("cuda"), pick=pick)


def pickers() -> dict[str, PickNoisy]:
    from worker.kernels.sampling import pick_noisy as pick_by_kernel

    return {"torch": pick_noisy, "kernel": pick_by_kernel}


def made_logits(rows: int, size: int, *, rounded: bool) -> Tensor:
    logits = torch.randn(rows, size, generator=torch.Generator().manual_seed(rows)) * 3
    return logits.bfloat16().float() if rounded else logits


def assert_alike(one: Outcome, other: Outcome) -> None:
    assert one.token_ids == other.token_ids
    for mine, theirs in zip(one.logprobs, other.logprobs, strict=True):
        assert mine.token_id == theirs.token_id
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-5)
        assert mine.top_token_ids == theirs.top_token_ids
        assert mine.top_logprobs == pytest.approx(theirs.top_logprobs, abs=1e-5)


@pytest.mark.parametrize("rounded", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("logprobs", [None, 3])
@pytest.mark.parametrize("picker", ["torch", "kernel"])
def test_the_device_draws_what_the_host_draws(picker: str, logprobs: int | None, num_ranks: int, rounded: bool) -> None:
    asks = [
        ask(seed=seed, sample=seed % 3, logprobs=logprobs, **controls)
        for seed, controls in enumerate([*CONTROLS.values()] * 2)
    ]
    logits, shards = made_logits(len(asks), SIZE, rounded=rounded), even_shards(SIZE, num_ranks)
    expected = Ranks(shards, asks)
    ranks = device_ranks(shards, asks, pickers()[picker])
    for step in range(3):  # penalties follow what is drawn
        assert_alike(ranks.draw(logits.cuda(), later=step), expected.draw(logits, later=step))
    assert ranks.num_asked == expected.num_asked


@pytest.mark.parametrize("name", ["greedy", "top-k", "min-p"])
def test_the_device_sends_what_the_host_sends(name: str) -> None:
    asks = [ask(seed=row, **CONTROLS[name]) for row in range(4)]
    generator = torch.Generator().manual_seed(1)
    logits = torch.stack([torch.randperm(SIZE, generator=generator) * 0.003 for _ in range(4)])  # none are equal
    shards = even_shards(SIZE, 2)
    payload = device_ranks(shards, asks, pick_noisy).payload(logits.cuda())
    assert torch.equal(payload.cpu().view(torch.int32), Ranks(shards, asks).payload(logits).view(torch.int32))


@pytest.mark.parametrize("picker", ["torch", "kernel"])
def test_of_equals_the_lowest_id_is_drawn_on_any_number_of_ranks(picker: str) -> None:
    logits = torch.zeros(2, 9000, device="cuda")
    logits[:, [4097, 8000, 100]] = 2.0
    for num_ranks in (1, 2, 5):
        ranks = device_ranks(even_shards(9000, num_ranks), [ask(), ask(logprobs=3)], pickers()[picker])
        drawn = ranks.draw(logits)
        assert drawn.token_ids == (100, 100)
        assert drawn.logprobs[0].top_token_ids == (100, 4097, 8000)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}], ids=str)
def test_a_model_that_gives_no_numbers_gives_the_same_known_id_on_all_ranks(sampling: dict[str, float]) -> None:
    ranks = device_ranks(even_shards(900, 3), [ask(**sampling)], pickers()["kernel"])
    assert 0 <= ranks.draw(torch.full((1, 900), torch.nan, device="cuda")).token_ids[0] < 900


def test_the_kernel_picks_what_the_host_picks() -> None:
    from tests.unit.worker.sampling import pick_checks

    pick_checks.check_all("cuda")
    pick_checks.check(made_logits(64, 76_032, rounded=True), 76_032, "cuda")


def test_noise_differs_from_the_hosts_in_the_last_bit_at_most() -> None:
    keys = torch.tensor([noise_key(row, 0, 9) for row in range(70)])
    ids = torch.arange(100_000)
    assert_last_bit(gumbel_noise(keys.cuda(), ids.cuda()).cpu(), gumbel_noise(keys, ids))
    own = torch.stack([ids[row : row + 500] for row in range(70)])
    assert_last_bit(gumbel_noise(keys.cuda(), own.cuda()).cpu(), gumbel_noise(keys, own))


def assert_last_bit(one: Tensor, other: Tensor) -> None:
    bits = (one.view(torch.int32) - other.view(torch.int32)).abs()
    assert int(bits.max()) <= 1


def test_ranking_and_masses_are_those_of_the_host() -> None:
    logits = made_logits(20, 30_000, rounded=True)
    values, places = first_tokens(logits.cuda(), 20)
    expected = first_tokens(logits, 20)
    assert torch.equal(values.cpu(), expected[0])
    assert torch.equal(places.cpu(), expected[1])
    masses = join_masses(shard_masses(logits.cuda()).unsqueeze(0))
    same = join_masses(shard_masses(logits).unsqueeze(0))
    torch.testing.assert_close(masses.total.cpu(), same.total, rtol=1e-13, atol=0.0)
    torch.testing.assert_close(masses.moment.cpu(), same.moment, rtol=1e-12, atol=0.0)


def test_encode_batches_and_prompts_give_what_they_give_on_the_host(strict_waits: Callable[[str], None]) -> None:
    hidden = hidden_states()
    own = hidden.cuda()
    encode(own, pinned_stage("cuda"), fetch_pinned)  # brings the head to the device
    strict_waits("error")
    encoded, predicted = (read(own, pinned_stage("cuda"), fetch_pinned) for read in (encode, predict))
    strict_waits("default")
    torch.cuda.synchronize()
    for one, other in zip(encoded(), encode(hidden)(), strict=True):
        assert one.values == pytest.approx(other.values, abs=1e-5)
        assert_alike(Outcome((), one.logprobs), Outcome((), other.logprobs))
    assert_alike(Outcome((), predicted()), Outcome((), predict(hidden)()))


@pytest.fixture
def strict_waits() -> Iterator[Callable[[str], None]]:
    """Set what torch does where the host waits for the device."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


def draw_free(name: str) -> Callable[[], Callable[[], object]]:
    """Return what launches the draws of a batch, and gives what reads them."""
    asks, shards = FREE[name], even_shards(FREE_SIZE, 2)
    logits = made_logits(len(asks), FREE_SIZE, rounded=False)[:, : len(shards[0])].contiguous().cuda()
    sampler = Sampler(shards, 0, pinned_stage("cuda"), pickers()["kernel"])
    ranks = Ranks(shards, asks)

    def launch() -> Callable[[], object]:
        candidates = sampler.candidates(logits.clone(), ranks.draws(), [one.mask for one in asks])
        return candidates.choose([candidates.payload] * 2, lambda part: [part] * 2).read(fetch_pinned)

    return launch


@pytest.mark.parametrize("name", FREE)
def test_launching_draws_does_not_wait_for_the_device(name: str, strict_waits: Callable[[str], None]) -> None:
    launch = draw_free(name)
    launch()  # compiles
    expected = behind_sleep(launch)()  # takes all the pinned memory that the next takes again: that may wait
    strict_waits("error")
    read = behind_sleep(launch, check=True)
    strict_waits("default")
    assert read() == expected


def behind_sleep(launch: Callable[[], Callable[[], object]], *, check: bool = False) -> Callable[[], object]:
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)  # cycles: half a second
    read = launch()
    is_done = torch.cuda.current_stream().query()
    torch.cuda.synchronize()
    assert not (check and is_done), "the launches were done only when the device was"
    return read
