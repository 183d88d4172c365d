"""Groups whose keys are in the paged cache: later chunks of prompts, and decode."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor

from worker.attention.groups import effective_windows, merge_heads
from worker.attention.masks import causal_mask, length_mask
from worker.attention.rows import Rows, rows_of
from worker.kv_cache import KvCache


class SlotTable:
    """Where the tokens of a batch's sequences lie in the cache; kept on the host.

    Args:
        block_tables: Blocks of each sequence, in order.
        block_size: Tokens of a block.
    """

    def __init__(self, block_tables: Sequence[Sequence[int]], block_size: int) -> None:
        most = max(map(len, block_tables))
        self._tables = torch.tensor([[*table, *[0] * (most - len(table))] for table in block_tables])
        self._block_size = block_size

    def slots(self, sequences: Tensor, positions: Tensor) -> Tensor:
        """Return slots, shaped as `positions`, of the sequences given by their places in the batch."""
        blocks = self._tables[sequences, positions // self._block_size]
        return blocks * self._block_size + positions % self._block_size


class CachedGroup:
    """Sequences with keys in the cache: several of one new token each, or one of any number.

    Args:
        cache: Where keys and values are.
        table: Where the tokens of the batch's sequences lie.
        members: Places of the sequences in the batch.
        queries: The batch's rows of each sequence.
        lengths: Tokens of each sequence, the new ones included.
        windows: By layer, see ModelSpec.sliding_windows.
    """

    def __init__(
        self,
        cache: KvCache,
        table: SlotTable,
        *,
        members: Sequence[int],
        queries: Sequence[range],
        lengths: Sequence[int],
        windows: Sequence[int | None],
    ) -> None:
        self._cache = cache
        self._query_rows = rows_of(queries, cache.keys[0].device)
        self._windows = effective_windows(windows, max(lengths))
        places, sizes = torch.tensor(members), torch.tensor(lengths)
        self._views = {
            window: _CacheView(cache, table, members=places, lengths=sizes, num_queries=len(queries[0]), window=window)
            for window in set(self._windows)
        }

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend over cached keys; the batch's own are among them."""
        del key, value
        view = self._views[self._windows[layer]]
        keys, values = view.read(*self._cache.slots(layer))
        queries = self._query_rows.take(query)
        if self._query_rows.length == 1:  # heads that share a key head become its queries
            queries = queries.reshape(len(queries), keys.shape[1], -1, keys.shape[-1])
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=view.mask)
            return attended.reshape(len(queries), -1)
        is_grouped = queries.shape[1] != keys.shape[1]
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=view.mask, enable_gqa=is_grouped)
        return merge_heads(attended)


class _CacheView:
    """What a group reads of the cache in layers of one window, in memory that all of them use in turn."""

    def __init__(
        self,
        cache: KvCache,
        table: SlotTable,
        *,
        members: Tensor,
        lengths: Tensor,
        num_queries: int,
        window: int | None,
    ) -> None:
        like, _ = cache.slots(cache.layers.start)
        longest = int(lengths.max())
        reach = longest if window is None else min(longest, window - 1 + num_queries)
        firsts = (lengths - reach).clamp_(min=0).unsqueeze(-1)
        positions = torch.minimum(firsts + torch.arange(reach), lengths.unsqueeze(-1) - 1)
        self._rows = _rows_of_slots(table.slots(members.unsqueeze(-1), positions), like.device)
        self._workspaces = self._rows.workspace(like), self._rows.workspace(like)
        if num_queries == 1:
            self.mask = length_mask(lengths - firsts.squeeze(-1), reach, like)
        else:
            self.mask = causal_mask(
                range(longest - num_queries, longest), range(longest - reach, longest), window, like
            )

    def read(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each [sequences, kv_heads, positions, head_dim]; good until the next read."""
        return self._rows.take(keys, self._workspaces[0]), self._rows.take(values, self._workspaces[1])


def _rows_of_slots(slots: Tensor, device: torch.device) -> Rows:
    """Return rows [sequences, positions] of the cache; a lone sequence whose slots are neighbours needs no copy."""
    count, length = slots.shape
    if count == 1 and bool((slots.diff() == 1).all()):
        return Rows(1, length, int(slots[0, 0]))
    return Rows(count, length, index=slots.flatten().to(device))
