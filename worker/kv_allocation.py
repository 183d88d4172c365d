"""How large a rank's keys and values are, and the memory for them."""

import logging
from typing import Final

import torch

from liger.errors import ConfigError
from worker.config import WorkerConfig
from worker.devices.base import Device
from worker.kv_cache import KvCache, bytes_per_block
from worker.memory import GIB, KvNeeds, blocks_of_share, blocks_of_size
from worker.rank import JoinPlan
from worker.shards.shard import Shard

_LOG: Final = logging.getLogger(__name__)


def allocate_cache(config: WorkerConfig, plan: JoinPlan, shard: Shard, device: Device, dtype: torch.dtype) -> KvCache:
    """Return the cache of a rank that has loaded its weights, as large as its settings and its memory let it be.

    Raises:
        ConfigError: Not one block fits, or the memory is not there.
    """
    spec = shard.spec
    size = config.block_size
    block_bytes = bytes_per_block(spec, shard.num_kv_heads, dtype, block_size=size, num_layers=len(shard.layers))
    needs = KvNeeds(block_bytes=block_bytes, block_size=size, max_length=spec.max_length, num_rows=plan.num_rows)
    num_blocks = _choose_num_blocks(config, needs, device, plan.world_size)
    try:
        return KvCache.allocate(
            layers=shard.layers,
            num_blocks=num_blocks,
            block_size=size,
            num_kv_heads=shard.num_kv_heads,
            head_dim=spec.head_dim,
            dtype=dtype,
            device=device.torch_device,
            has_scratch=device.runs_ahead,
        )
    except RuntimeError as error:  # how torch tells that memory is short
        gib = num_blocks * block_bytes / GIB
        raise ConfigError(
            f"a KV cache of {gib:.2f} GiB does not fit this machine; lower --kv-cache-gib or --kv-memory-fraction"
        ) from error


def _choose_num_blocks(config: WorkerConfig, needs: KvNeeds, device: Device, num_ranks: int) -> int:
    gib, free = config.kv_cache_gib, device.free_bytes()
    fraction = config.kv_memory_fraction or device.kv_fraction
    if gib:
        num_blocks = blocks_of_size(needs, gib)
    else:
        num_blocks = blocks_of_share(needs, free=free, fraction=fraction, num_ranks=num_ranks)
    _LOG.info(
        "KV cache of %d blocks of %d tokens, %.2f GiB (%s), of %.2f GiB free; the longest sequence takes %d blocks",
        num_blocks,
        needs.block_size,
        num_blocks * needs.block_bytes / GIB,
        f"--kv-cache-gib {gib:g}" if gib else f"--kv-memory-fraction {fraction:g}",
        free / GIB,
        needs.blocks_of_longest,
    )
    return num_blocks
