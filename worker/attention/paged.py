"""Attention of prefill and decode batches over the paged cache."""

from collections.abc import Hashable, Sequence
from typing import Final

import torch
from torch import Tensor

from worker.attention.cached import CachedGroup, SlotTable
from worker.attention.groups import Group, OwnGroup, contiguous_rows, group_equal, join, places_of
from worker.kv_cache import KvCache

_SHORT: Final = 64  # tokens: up to here padding costs less than a call of its own
_MAX_PADDING: Final = 1.25  # longest over shortest context in a group of longer ones


class PagedAttention:
    """Writes a batch's keys and values to the cache, then attends over all that each token may see."""

    bucket: Hashable | None = None  # it depends on the lengths of all sequences

    def __init__(self, cache: KvCache, slot_mapping: Tensor, groups: Sequence[Group], places: Tensor | None) -> None:
        self._cache = cache
        self._slot_mapping = slot_mapping
        self._groups = groups
        self._places = places

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend in one layer, see `Attend`."""
        keys, values = self._cache.slots(layer)
        keys.index_copy_(0, self._slot_mapping, key)
        values.index_copy_(0, self._slot_mapping, value)
        return join([group.attend(layer, query, key, value) for group in self._groups], self._places)


def build_paged_attention(
    cache: KvCache,
    *,
    num_tokens: Sequence[int],
    starts: Sequence[int],
    block_tables: Sequence[Sequence[int]],
    windows: Sequence[int | None],
) -> PagedAttention:
    """Prepare attention of sequences whose new tokens lie one after another in the batch.

    Args:
        cache: The rank's cache, with all tokens before `starts` written.
        num_tokens: New tokens of each sequence, at least 1.
        starts: Position of each one's first new token.
        block_tables: Each one's blocks, enough for its new tokens too.
        windows: ModelSpec.sliding_windows.
    """
    like = cache.keys[0]
    rows = contiguous_rows(num_tokens)
    table = SlotTable(block_tables, cache.block_size)
    members = _group(num_tokens, starts)
    groups: list[Group] = []
    for group in members:
        queries = [rows[member] for member in group]
        if starts[group[0]] == 0:
            groups.append(OwnGroup(queries, causal=True, windows=windows, like=like))
        else:
            lengths = [starts[member] + num_tokens[member] for member in group]
            groups.append(CachedGroup(cache, table, members=group, queries=queries, lengths=lengths, windows=windows))
    slot_mapping = _slot_mapping(table, num_tokens, starts).to(like.device)
    return PagedAttention(cache, slot_mapping, groups, places_of(rows, members, like.device))


def _slot_mapping(table: SlotTable, num_tokens: Sequence[int], starts: Sequence[int]) -> Tensor:
    """Return the slot of each new token, [num_tokens] int64."""
    counts = torch.tensor(num_tokens)
    first_rows = counts.cumsum(0) - counts
    sequences = torch.arange(len(counts)).repeat_interleave(counts)
    positions = torch.arange(len(sequences)) + (torch.tensor(starts) - first_rows)[sequences]
    return table.slots(sequences, positions)


def _group(num_tokens: Sequence[int], starts: Sequence[int]) -> list[list[int]]:
    """Return what can be attended together: fresh prompts of equal length, decode of like context, each later chunk."""
    places = range(len(starts))
    fresh = [place for place in places if starts[place] == 0]
    decode = [place for place in places if starts[place] and num_tokens[place] == 1]
    chunks = [[place] for place in places if starts[place] and num_tokens[place] > 1]
    groups = [[fresh[member] for member in group] for group in group_equal([num_tokens[place] for place in fresh])]
    groups += [[decode[member] for member in group] for group in _group_like([starts[place] for place in decode])]
    return groups + chunks


def _group_like(lengths: Sequence[int]) -> list[list[int]]:
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
