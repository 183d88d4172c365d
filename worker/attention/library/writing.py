"""New keys and values to the cache."""

import importlib
from collections.abc import Callable

from torch import Tensor

from worker.kv_cache import KvCache

WriteKv = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]
"""Writes to keys' and values' caches [slots, kv_heads, head_dim], at slots [num_tokens] int64, new keys and values
[num_tokens, kv_heads, head_dim]. Padding may name a slot twice."""


def write_by_index(keys_cache: Tensor, values_cache: Tensor, slot_mapping: Tensor, key: Tensor, value: Tensor) -> None:
    """Write by torch's own kernels. A `WriteKv`."""
    keys_cache.index_copy_(0, slot_mapping, key)
    values_cache.index_copy_(0, slot_mapping, value)


def choose_writer() -> WriteKv:
    """Return our fused kernel where Triton is installed."""
    try:
        writer: WriteKv = importlib.import_module("worker.kernels.cache").write_kv
    except ImportError:
        return write_by_index
    return writer


class Writer:
    """Writes one batch's keys and values.

    Args:
        write: How.
        cache: Where.
        slot_mapping: [num_tokens] int64.
    """

    def __init__(self, write: WriteKv, cache: KvCache, slot_mapping: Tensor) -> None:
        self._write = write
        self._cache = cache
        self._slot_mapping = slot_mapping

    def __call__(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write those of a layer, each [num_tokens, kv_heads, head_dim]."""
        self._write(*self._cache.slots(layer), self._slot_mapping, key, value)
