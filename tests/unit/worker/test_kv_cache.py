import pytest
import torch

from tests.support.tiny_models import MakeModel, model_maker
from worker.kv_cache import KvCache, bytes_per_block
from worker.shards.folder import read_spec


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    return model_maker(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [range(3), range(1, 3)])
def test_bytes_of_a_block_are_those_that_a_cache_takes(
    layers: range, dtype: torch.dtype, tiny_model: MakeModel
) -> None:
    spec = read_spec(tiny_model("llama")[0])
    cache = KvCache.allocate(
        layers=layers, num_blocks=10, block_size=16, num_kv_heads=2, head_dim=spec.head_dim, dtype=dtype
    )
    per_block = bytes_per_block(spec, 2, dtype, block_size=16, num_layers=len(layers))
    assert cache.num_bytes == 10 * per_block == 10 * 2 * len(layers) * 16 * 2 * 4 * dtype.itemsize


def test_a_block_of_all_layers_is_the_default(tiny_model: MakeModel) -> None:
    spec = read_spec(tiny_model("llama")[0])
    assert bytes_per_block(spec, 3, torch.float32, block_size=4) == 2 * 3 * 4 * 3 * 4 * 4


def test_a_slot_is_block_times_size_plus_offset() -> None:
    cache = KvCache.allocate(layers=range(5, 7), num_blocks=4, block_size=8, num_kv_heads=1, head_dim=2)
    keys, values = cache.slots(6)
    keys[2 * 8 + 3] = 1.0
    values[2 * 8 + 3] = 2.0
    assert cache.keys[1][2, 3].tolist() == [[1.0, 1.0]]
    assert cache.values[1][2, 3].tolist() == [[2.0, 2.0]]
    assert cache.keys[0].count_nonzero() == 0


def test_a_new_cache_is_empty() -> None:
    cache = KvCache.allocate(layers=range(2), num_blocks=3, block_size=4, num_kv_heads=2, head_dim=4)
    assert not any(tensor.count_nonzero() for tensor in (*cache.keys, *cache.values))


def test_the_scratch_block_comes_after_all_others() -> None:
    cache = KvCache.allocate(layers=range(2), num_blocks=3, block_size=4, num_kv_heads=2, head_dim=4, has_scratch=True)
    assert cache.scratch_block == cache.num_blocks == 3
    assert all(len(tensor) == 4 for tensor in (*cache.keys, *cache.values))
    assert len(cache.slots(1)[0]) == 16
    assert [tensor.shape for tensor in cache.blocks(1)] == [(4, 4, 2, 4)] * 2


def test_a_cache_has_no_scratch_block_unless_asked_for() -> None:
    cache = KvCache.allocate(layers=range(1), num_blocks=3, block_size=4, num_kv_heads=2, head_dim=4)
    assert cache.scratch_block is None
    assert len(cache.keys[0]) == 3
