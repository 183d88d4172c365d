"""Numbers on their way between host and device, without waiting for the device."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Stage = Callable[[Sequence[float], torch.dtype], Tensor]
"""Begins to copy numbers to the device, in the order of the current stream; the tensor is the caller's to keep."""

Fetch = Callable[[Tensor], Tensor]
"""Begins to copy a tensor to the host. The copy may be read once the device has passed that point."""


def stage_here(values: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Return numbers as a tensor on the host: a `Stage` where the host is the device."""
    return torch.tensor(values, dtype=dtype)


def fetch_here(tensor: Tensor) -> Tensor:
    """Return the tensor itself: a `Fetch` where the host is the device."""
    return tensor


def pinned_stage(device: torch.device | str) -> Stage:
    """Return a `Stage` to a CUDA device that takes pinned memory from torch's cache."""
    device = torch.device(device)
    return lambda values, dtype: put(torch.tensor(values, dtype=dtype), device)


def fetch_pinned(tensor: Tensor) -> Tensor:
    """Begin to copy a tensor of a CUDA device to pinned memory from torch's cache: a `Fetch`."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def put(host: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; torch's cache keeps the pinned memory until the copy has ended."""
    if device.type == "cpu":
        return host
    if not host.numel():
        return torch.empty(host.shape, dtype=host.dtype, device=device)
    return host.pin_memory().to(device, non_blocking=True)
