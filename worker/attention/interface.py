"""What a shard calls to attend, and what makes it: built once a batch, called once a layer."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worker.kv_cache import KvCache

Stage = Callable[[str, Sequence[int] | Tensor, torch.dtype], Tensor]
"""Brings host values to the device: `stage(name, values, dtype)` returns a tensor that holds them.

A slot's tensor of a name lies at one address for the slot's life, whatever its length, so that a captured graph that
reads it stays right when the next batch of the same bucket is staged.
"""


class Attend(Protocol):
    """Attends for one batch."""

    @property
    def bucket(self) -> Hashable | None:
        """All that a captured launch of it would hold fixed; None if it cannot be captured.

        A graph captured with one batch's may be replayed for another of the same slot and the same bucket.
        """
        ...

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend in one layer.

        Args:
            layer: Number of the layer in the whole model.
            query: [num_tokens, heads, head_dim], of this rank; padding included.
            key: [num_tokens, kv_heads, head_dim]; each serves heads / kv_heads neighbouring query heads.
            value: Like key.

        Returns:
            [num_tokens, heads * head_dim].
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """What a rank attends with, the same for all batches."""

    num_heads: int  # of this rank
    num_kv_heads: int  # likewise
    head_dim: int
    windows: Sequence[int | None]  # ModelSpec.sliding_windows
    causal: bool  # ModelSpec.causal, of encode batches; prefill and decode always are
    max_length: int  # longest sequence, in tokens
    dtype: torch.dtype
    device: torch.device
    block_size: int | None = None  # tokens of a block of the cache; None without a cache


class AttentionBackend(Protocol):
    """Makes the attention of batches.

    Padding fills a batch up to the size of a bucket that the caller chose. The tokens that it adds come after all
    others; what is computed for them is finite if their queries, keys and values are, and means nothing.
    """

    @property
    def is_capturable(self) -> bool:
        """Whether some of its batches can be captured in CUDA graphs; `Attend.bucket` tells which."""
        ...

    def encode(
        self,
        slot: int,
        lengths: Sequence[int],
        *,
        stage: Stage,
        padded_tokens: int | None = None,
        padded_rows: int | None = None,
    ) -> Attend:
        """Prepare attention of whole inputs that lie one after another in the batch.

        Args:
            slot: Where the batch runs. The memory of a slot serves one batch after another, in stream order.
            lengths: Tokens of each input, at least 1.
            stage: Brings host values to the slot's memory.
            padded_tokens: Tokens of the batch with padding; None if there is none, and no graph is wanted.
            padded_rows: Inputs with padding, at least; None leaves it to the backend.
        """
        ...

    def paged(
        self,
        slot: int,
        cache: KvCache,
        *,
        num_tokens: Sequence[int],
        starts: Sequence[int],
        block_tables: Sequence[Sequence[int]],
        stage: Stage,
        padded_tokens: int | None = None,
        padded_rows: int | None = None,
    ) -> Attend:
        """Prepare attention of sequences whose new tokens lie one after another in the batch.

        Padding is added as sequences that read and write the cache's scratch block alone.

        Args:
            slot: See `encode`.
            cache: The rank's cache, with all tokens before `starts` written; with a scratch block if there is padding.
            num_tokens: New tokens of each sequence, at least 1.
            starts: Position of each one's first new token.
            block_tables: Each one's blocks, enough for its new tokens too.
            stage: See `encode`.
            padded_tokens: See `encode`. In decode (one token each) as many as padded rows.
            padded_rows: Sequences with padding, at least; None leaves it to the backend.
        """
        ...
