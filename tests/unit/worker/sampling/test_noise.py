import math

import pytest
import torch

from worker.sampling.noise import gumbel_noise, noise_key


def test_a_shard_draws_the_same_noise_as_the_whole_vocabulary():
    key = noise_key(7, 0, 12)
    whole = gumbel_noise(torch.tensor([key]), torch.arange(1000))
    assert torch.equal(gumbel_noise(torch.tensor([key]), torch.arange(300, 700)), whole[:, 300:700])


def test_rows_are_independent_of_the_batch_they_are_in():
    keys = torch.tensor([noise_key(1, 0, 5), noise_key(2, 0, 5)])
    both = gumbel_noise(keys, torch.arange(64))
    assert torch.equal(both[1:], gumbel_noise(keys[1:], torch.arange(64)))


@pytest.mark.parametrize("other", [(2, 0, 0), (1, 1, 0), (1, 0, 1), (1 + 2**63, 0, 0)])
def test_seed_sample_and_position_each_change_the_draws(other):
    ids = torch.arange(64)
    one, two = (gumbel_noise(torch.tensor([noise_key(*key)]), ids) for key in ((1, 0, 0), other))
    assert not torch.equal(one, two)


def test_seeds_of_64_bits_are_taken():
    noise = gumbel_noise(torch.tensor([noise_key(2**64 - 1, 63, 2**20)]), torch.arange(4096))
    assert torch.isfinite(noise).all()


@pytest.mark.parametrize("bits", [-1, 0])
def test_the_largest_and_smallest_draws_are_finite(monkeypatch, bits):
    monkeypatch.setattr("worker.sampling.noise._mix_tensor", lambda value: torch.full_like(value, bits))

    noise = gumbel_noise(torch.tensor([1]), torch.arange(4))

    assert torch.isfinite(noise).all()
    assert torch.isneginf(noise + -math.inf).all()  # a masked token's


def test_noise_is_standard_gumbel():
    noise = gumbel_noise(
        torch.tensor([noise_key(3, 0, position) for position in range(64)]), torch.arange(4096)
    ).double()
    # a quarter million draws: mean = Euler's constant, variance = pi² / 6; four standard errors
    count = noise.numel()
    assert abs(noise.mean().item() - 0.5772156649) < 4 * math.sqrt(math.pi**2 / 6 / count)
    assert abs(noise.var().item() - math.pi**2 / 6) < 4 * math.sqrt(4.4 * (math.pi**2 / 6) ** 2 / count)
    below = (noise < 0.3665).double().mean().item()  # the median is -log(log 2)
    assert abs(below - 0.5) < 4 * 0.5 / math.sqrt(count)
