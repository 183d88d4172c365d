"""The attention that all others are checked against: torch's own, on any device."""

from collections.abc import Sequence

from worker.attention.encode import build_encode_attention
from worker.attention.interface import Attend, AttentionShape, Stage
from worker.attention.metadata import blocks_of, scratch_of
from worker.attention.paged import build_paged_attention
from worker.kv_cache import KvCache


class ReferenceAttention:
    """Torch's scaled dot products, grouped by length. Implements `AttentionBackend`.

    Args:
        shape: What is attended with.
    """

    is_capturable = False  # groups, masks and indices depend on every length

    def __init__(self, shape: AttentionShape) -> None:
        self._shape = shape

    def encode(
        self,
        slot: int,
        lengths: Sequence[int],
        *,
        stage: Stage,
        padded_tokens: int | None = None,
        padded_rows: int | None = None,
    ) -> Attend:
        """Prepare attention of whole inputs; padding becomes inputs of one token."""
        del slot, stage, padded_rows
        padding = 0 if padded_tokens is None else padded_tokens - sum(lengths)
        return build_encode_attention(
            [*lengths, *[1] * padding],
            causal=self._shape.causal,
            windows=self._shape.windows,
            dtype=self._shape.dtype,
            device=self._shape.device,
        )

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
        """Prepare attention over the cache; padding becomes one fresh sequence in the scratch block."""
        del slot, stage, padded_rows
        padding = 0 if padded_tokens is None else padded_tokens - sum(num_tokens)
        if padding:
            scratch = [scratch_of(cache)] * blocks_of(padding, cache.block_size)
            num_tokens, starts = [*num_tokens, padding], [*starts, 0]
            block_tables = [*block_tables, scratch]
        return build_paged_attention(
            cache, num_tokens=num_tokens, starts=starts, block_tables=block_tables, windows=self._shape.windows
        )
