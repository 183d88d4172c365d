"""Attention of prefill and decode batches over the paged cache."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor

from worker.attention.groups import Group, OwnGroup, contiguous_rows, group_by_length, join, places_of
from worker.attention.masks import causal_mask, length_mask
from worker.attention.rows import Rows, rows_of, rows_of_slots
from worker.kv_cache import KvCache


class PagedAttention:
    """Writes a batch's keys and values to the cache, then attends over all that each token may see."""

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


class CachedGroup:
    """Sequences with keys in the cache: several of one new token each, or one of many.

    Args:
        cache: Where keys and values are.
        queries: The batch's rows of each sequence.
        slots: The cache's slots of each sequence by position, [positions] int64, the new ones included.
        windows: By layer, see ModelSpec.sliding_windows.
        like: Gives dtype and device of masks.
    """

    def __init__(
        self,
        cache: KvCache,
        *,
        queries: Sequence[range],
        slots: Sequence[Tensor],
        windows: Sequence[int | None],
        like: Tensor,
    ) -> None:
        self.query_rows = rows_of(queries, like.device)
        self._cache = cache
        longest = max(len(sequence) for sequence in slots)
        self._windows = [window if window is not None and window < longest else None for window in windows]
        self._seen = {window: _seen(window, len(queries[0]), slots, like) for window in set(self._windows)}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend over cached keys; the batch's own are among them."""
        del key, value
        key_rows, mask = self._seen[self._windows[layer]]
        keys, values = (key_rows.take(tensor) for tensor in self._cache.slots(layer))
        queries = self.query_rows.take(query)
        if self.query_rows.length == 1:  # heads that share a key head become its queries
            queries = queries.reshape(len(queries), keys.shape[1], -1, keys.shape[-1])
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            return attended.reshape(len(queries), -1)
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, enable_gqa=queries.shape[1] != keys.shape[1]
        )
        return attended.transpose(1, 2).flatten(2).flatten(0, 1)


def _seen(window: int | None, num_queries: int, slots: Sequence[Tensor], like: Tensor) -> tuple[Rows, Tensor | None]:
    """Return which slots are read, and who sees what of them."""
    reach = max(map(len, slots)) if window is None else window - 1 + num_queries
    read = [sequence[max(0, len(sequence) - reach) :] for sequence in slots]
    lengths = [len(sequence) for sequence in read]
    if num_queries == 1:
        return rows_of_slots(read), length_mask(lengths, like)
    queries = range(lengths[0] - num_queries, lengths[0])
    return rows_of_slots(read), causal_mask(queries, range(lengths[0]), window, like)


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
    slots = [
        _slots(table, start + count, cache.block_size)
        for table, start, count in zip(block_tables, starts, num_tokens, strict=True)
    ]
    new_slots = torch.cat([sequence[start:] for sequence, start in zip(slots, starts, strict=True)])
    members = _group(num_tokens, starts)
    groups: list[Group] = []
    for group in members:
        queries = [rows[member] for member in group]
        if starts[group[0]] == 0:
            groups.append(OwnGroup(queries, causal=True, windows=windows, like=like))
        else:
            read = [slots[member] for member in group]
            groups.append(CachedGroup(cache, queries=queries, slots=read, windows=windows, like=like))
    return PagedAttention(cache, new_slots.to(like.device), groups, places_of(rows, members, like.device))


def _slots(block_table: Sequence[int], num_positions: int, block_size: int) -> Tensor:
    """Return the slot of each position, [num_positions] int64, on the host."""
    num_blocks = -(-num_positions // block_size)
    blocks = torch.tensor(block_table[:num_blocks], dtype=torch.int64)
    return (blocks.unsqueeze(-1) * block_size + torch.arange(block_size)).flatten()[:num_positions]


def _group(num_tokens: Sequence[int], starts: Sequence[int]) -> list[list[int]]:
    """Return what can be attended together: fresh prompts of like length, decode of like context, each later chunk."""
    places = range(len(starts))
    fresh = [place for place in places if starts[place] == 0]
    decode = [place for place in places if starts[place] and num_tokens[place] == 1]
    chunks = [[place] for place in places if starts[place] and num_tokens[place] > 1]
    groups = [[fresh[member] for member in group] for group in group_by_length([num_tokens[place] for place in fresh])]
    groups += [[decode[member] for member in group] for group in group_by_length([starts[place] for place in decode])]
    return groups + chunks
