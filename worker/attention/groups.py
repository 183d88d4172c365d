"""Groups: sequences of a batch that are attended in one call, and how their results find their way back."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor

from worker.attention.masks import causal_mask, length_mask
from worker.attention.rows import Rows, rows_of

_SHORT: Final = 64  # tokens: up to here padding costs less than a call of its own
_MAX_PADDING: Final = 1.25  # longest over shortest in a group of longer sequences


class Group(Protocol):
    """Sequences attended in one call."""

    query_rows: Rows

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return [sequences * padded length, heads * head_dim] from the batch's own queries, keys and values."""
        ...


class OwnGroup:
    """Sequences whose keys are all in the batch itself.

    Args:
        sequences: The batch's rows of each, contiguous.
        causal: Whether a token sees only what is before it. Then padding at the end harms nothing.
        windows: By layer, see ModelSpec.sliding_windows.
        like: Gives dtype and device of masks.
    """

    def __init__(
        self, sequences: Sequence[range], *, causal: bool, windows: Sequence[int | None], like: Tensor
    ) -> None:
        self.query_rows = rows_of(sequences, like.device)
        self._causal = causal
        self._windows = [
            window if window is not None and window < self.query_rows.length else None for window in windows
        ]
        places = range(self.query_rows.length)
        self._masks: dict[int | None, Tensor | None] = {
            window: causal_mask(places, places, window, like) for window in set(self._windows) if window is not None
        }
        self._masks[None] = None if causal else length_mask([len(rows) for rows in sequences], like)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend over the batch's own keys."""
        rows = self.query_rows
        mask = self._masks[self._windows[layer]]
        attended = F.scaled_dot_product_attention(
            rows.take(query),
            rows.take(key),
            rows.take(value),
            attn_mask=mask,
            is_causal=self._causal and mask is None,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return attended.transpose(1, 2).flatten(2).flatten(0, 1)


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Return the places of sequences in groups of like length, so that padding to a group's longest costs little."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    groups: list[list[int]] = []
    for place in order:
        shortest = lengths[groups[-1][0]] if groups else 0
        if groups and lengths[place] <= max(_SHORT, shortest * _MAX_PADDING):
            groups[-1].append(place)
        else:
            groups.append([place])
    return [sorted(group) for group in groups]


def places_of(sequences: Sequence[range], groups: Sequence[Sequence[int]], device: torch.device | str) -> Tensor | None:
    """Return where each row's result lies in the concatenation of all groups'; None if all lie in order."""
    places = [0] * sum(len(rows) for rows in sequences)
    offset = 0
    for group in groups:
        longest = max(len(sequences[member]) for member in group)
        for member in group:
            rows = sequences[member]
            places[rows.start : rows.stop] = range(offset, offset + len(rows))
            offset += longest
    if offset == len(places) and places == list(range(offset)):
        return None
    return torch.tensor(places, device=device)


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
