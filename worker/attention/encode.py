"""Attention of encode batches: whole inputs, no cache."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from worker.attention.groups import Group, OwnGroup, contiguous_rows, group_equal, join, places_of


class EncodeAttention:
    """Attends within each of a batch's inputs."""

    bucket: Hashable | None = None  # it depends on the lengths of all inputs

    def __init__(self, groups: Sequence[Group], places: Tensor | None) -> None:
        self._groups = groups
        self._places = places

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend in one layer, see `Attend`."""
        return join([group.attend(layer, query, key, value) for group in self._groups], self._places)


def build_encode_attention(
    lengths: Sequence[int],
    *,
    causal: bool,
    windows: Sequence[int | None],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> EncodeAttention:
    """Prepare attention of inputs that lie one after another in the batch.

    Args:
        lengths: Tokens of each input, at least 1.
        causal: ModelSpec.causal.
        windows: ModelSpec.sliding_windows.
        dtype: Of queries, keys and values.
        device: Where they are.
    """
    like = torch.empty(0, dtype=dtype, device=device)
    sequences = contiguous_rows(lengths)
    members = group_equal(lengths)
    groups = [
        OwnGroup([sequences[member] for member in group], causal=causal, windows=windows, like=like)
        for group in members
    ]
    return EncodeAttention(groups, places_of(sequences, members, device))
