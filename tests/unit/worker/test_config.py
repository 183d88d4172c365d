import pytest

from liger.errors import ConfigError
from worker.config import WorkerConfig


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"tp_size": 0}, "--tp-size"),
        ({"pp_size": 0}, "--pp-size"),
        ({"block_size": 0}, "--block-size"),
        ({"tp_size": 2, "pp_size": 2, "rank": 4}, "--rank must be 0 to 3"),
        ({"communicator": "mpi"}, "--communicator takes auto or gloo"),
        ({"communicator": "nccl"}, "nccl is of GPUs"),
        ({"communicator": "gloo", "device": "cuda"}, "gloo is of the CPU"),
        ({"device": "cuda:"}, "--device takes cpu, cuda or cuda:N"),
        ({"device": "cuda:1 "}, "--device takes cpu, cuda or cuda:N"),
        ({"dtype": "int8"}, "--dtype takes float32"),
        ({"exchange_limit_s": 0.0}, "--exchange-limit-s"),
        ({"kv_memory_fraction": -0.1}, "--kv-memory-fraction"),
        ({"kv_memory_fraction": 0.96}, "--kv-memory-fraction"),
        ({"kv_memory_fraction": float("nan")}, "--kv-memory-fraction"),
        ({"kv_cache_gib": -1.0}, "--kv-cache-gib"),
        ({"kv_cache_gib": float("inf")}, "--kv-cache-gib"),
        ({"kv_cache_gib": float("nan")}, "--kv-cache-gib"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path, settings, match):
    with pytest.raises(ConfigError, match=match):
        WorkerConfig(model_folder=tmp_path, **settings)


def test_stages_of_several_ranks_are_served(tmp_path):
    assert WorkerConfig(model_folder=tmp_path, tp_size=2, pp_size=3, rank=5).pp_size == 3


@pytest.mark.parametrize(
    ("settings", "host", "exchange_address"),
    [
        ({"listen": "127.0.0.2:0"}, "127.0.0.2", "127.0.0.2"),
        ({"advertise": "node"}, "node", "node"),
        ({"advertise": "node", "exchange_host": "10.0.0.1"}, "node", "10.0.0.1"),
    ],
)
def test_exchanges_may_take_another_link_than_calls(tmp_path, settings, host, exchange_address):
    config = WorkerConfig(model_folder=tmp_path, **settings)
    assert (config.host, config.exchange_address) == (host, exchange_address)
