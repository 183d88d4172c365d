"""Checks of the kernel that picks from logits with noise; needs triton, and a device or Triton's interpreter.

`TRITON_INTERPRET=1 python -m tests.unit.worker.sampling.pick_checks` runs them on the host.
"""

import torch
from torch import Tensor

from worker.kernels.sampling import pick_noisy
from worker.sampling.noise import gumbel_noise, noise_key
from worker.sampling.picking import pick_noisy as pick_plainly

CLOSE = 1e-6  # of sums that may come in either order


def check(logits: Tensor, first: int, device: str) -> None:
    """Compare with the host: the same place, unless the best two are as good as equal."""
    rows = torch.arange(len(logits))
    temperatures = 0.3 + 0.4 * (rows % 4)
    keys = torch.tensor([noise_key(2**64 - 1 - row, row % 3, row) for row in rows.tolist()], dtype=torch.int64)
    values, places = (
        one.cpu() for one in pick_noisy(logits.to(device), temperatures.to(device), keys.to(device), first)
    )
    expected, best = pick_plainly(logits, temperatures, keys, first)
    assert values.shape == places.shape == (len(logits), 1)
    torch.testing.assert_close(values, expected, rtol=CLOSE, atol=CLOSE, equal_nan=True)
    scores = logits / temperatures.unsqueeze(-1)
    scores += gumbel_noise(keys, torch.arange(first, first + logits.shape[-1]))
    is_close = (scores.gather(-1, places) - expected).abs() <= CLOSE
    assert ((places == best) | is_close).all()


def check_all(device: str) -> None:
    generator = torch.Generator().manual_seed(3)
    for rows, width, first in ((1, 1, 0), (2, 7, 150_000), (3, 1024, 77), (5, 5000, 0), (9, 2500, 2_000_000)):
        check(torch.randn(rows, width, generator=generator) * 4, first, device)
    logits = torch.randn(4, 3000, generator=generator).bfloat16().float()
    logits[0] = -torch.inf
    logits[1, :2999] = -torch.inf
    logits[2, [1500, 2999]] = torch.nan
    check(logits, 5, device)
    values, places = pick_noisy(*(torch.empty(0, 9, device=device), *torch.empty(2, 0, device=device)), 0)
    assert values.shape == places.shape == (0, 1)


if __name__ == "__main__":
    check_all("cpu")
