"""Groups: sequences of a batch that are attended in one call, and how their results find their way back."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor

from worker.attention.masks import causal_mask
from worker.attention.rows import rows_of


class Group(Protocol):
    """Sequences attended in one call, each with as many new tokens."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return [sequences * new tokens, heads * head_dim] from the batch's own queries, keys and values."""
        ...


class OwnGroup:
    """Sequences of equal length whose keys are all in the batch itself.

    Args:
        sequences: The batch's rows of each, contiguous.
        causal: Whether a token sees only itself and what is before it.
        windows: By layer, see ModelSpec.sliding_windows.
        like: Gives dtype and device of masks.
    """

    def __init__(
        self, sequences: Sequence[range], *, causal: bool, windows: Sequence[int | None], like: Tensor
    ) -> None:
        self._rows = rows_of(sequences, like.device)
        self._causal = causal
        self._windows = effective_windows(windows, self._rows.length)
        places = range(self._rows.length)
        self._masks: dict[int | None, Tensor] = {
            window: causal_mask(places, places, window, like) for window in set(self._windows) if window is not None
        }

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend over the batch's own keys."""
        mask = self._masks.get(self._windows[layer])
        attended = F.scaled_dot_product_attention(
            self._rows.take(query),
            self._rows.take(key),
            self._rows.take(value),
            attn_mask=mask,
            is_causal=self._causal and mask is None,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return merge_heads(attended)


def effective_windows(windows: Sequence[int | None], num_keys: int) -> list[int | None]:
    """Return the windows that matter for so many keys, None for those that do not."""
    return [window if window is not None and window < num_keys else None for window in windows]


def merge_heads(attended: Tensor) -> Tensor:
    """Return [sequences * tokens, heads * head_dim] from [sequences, heads, tokens, head_dim]."""
    return attended.transpose(1, 2).flatten(2).flatten(0, 1)


def places_of(sequences: Sequence[range], groups: Sequence[Sequence[int]], device: torch.device | str) -> Tensor | None:
    """Return where each row's result lies in the concatenation of all groups'; None if all lie in order."""
    order = [row for group in groups for member in group for row in sequences[member]]
    if order == list(range(len(order))):
        return None
    return torch.tensor(order).argsort().to(device)


def join(results: list[Tensor], places: Tensor | None) -> Tensor:
    """Return [num_tokens, heads * head_dim] from the results of all groups."""
    joined = results[0] if len(results) == 1 else torch.cat(results)
    return joined if places is None else joined.index_select(0, places)


def contiguous_rows(lengths: Sequence[int]) -> list[range]:
    """Return the rows of sequences that lie one after another."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return [range(start, stop) for start, stop in pairwise(starts)]


def group_equal(lengths: Sequence[int]) -> list[list[int]]:
    """Return the places of sequences in groups of equal length, in order of their first."""
    groups: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        groups.setdefault(length, []).append(place)
    return list(groups.values())
