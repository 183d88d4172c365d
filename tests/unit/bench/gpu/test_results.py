import json

import pytest

from bench.gpu.report import describe_row, tables
from bench.gpu.results import Results
from bench.gpu.settings import parse_orders
from bench.gpu.testbed import describe, environment, exchange_name, serial_names

H200 = "NVIDIA H200"


def settings(*words: str):
    return parse_orders(list(words)).settings


def plane_row(**more) -> dict[str, object]:
    return {"shape": "8b", "tokens": 512, "compute_ms": 1.0, "gain_vs_best_serial": 1.5, "bound": 2.0, **more}


@pytest.fixture
def results(tmp_path):
    own = settings()
    return Results(own, describe(own, (H200, H200), is_partitioned=False), tmp_path / "deep" / "out.json")


def test_the_file_is_whole_json_after_every_row(results, tmp_path):
    for number in range(3):
        results.add("profile", {"shape": "8b", "segment": "mlp"})
        results.add("data_plane", plane_row(tokens=number))
        table = json.loads((tmp_path / "deep" / "out.json").read_text())
        assert len(table["data_plane"]) == len(table["profile"]) == number + 1
        assert table["status"] == "running"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.json"]


def test_what_was_interrupted_says_so_and_keeps_its_rows(results, tmp_path):
    results.add("data_plane", plane_row())
    results.end("cut short: KeyboardInterrupt")
    table = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert table["status"] == "cut short: KeyboardInterrupt"
    assert table["summary"]["8b"]["throughput_vs_tensor"] == 1.5
    assert table["testbed"]["name"] == "2 × NVIDIA H200"


def test_numbers_that_json_does_not_know_are_null(results):
    results.add("data_plane", plane_row(max_rel_error=float("inf")))
    assert json.loads(results.to_json())["data_plane"][0]["max_rel_error"] is None


def test_the_table_has_the_bound_beside_the_gain(results):
    results.add("data_plane", plane_row())
    results.add("decode", {"shape": "8b", "sequences": 32, "merged_ms": 0.5})
    results.add("service", {"shape": "8b", "strategy": "tensor", "label": "saturation", "tokens_per_s": 5.0})
    text = tables(results, describe(settings(), (H200, H200), is_partitioned=False))
    assert "bound" in text
    assert "8b 512" in text
    assert "8b 32" in text
    assert describe_row("profile", {}) == ""
    assert "gain" not in describe_row("data_plane", plane_row())


def test_ranks_get_the_settings_that_were_asked_for():
    own = settings("--ranks", "4", "--tokens", "128,512", "--shapes", "8b", "--parts", "data-plane")
    assert type(own).from_json(own.to_json()) == own


@pytest.mark.parametrize(
    "words",
    [
        ("--ranks", "9"),
        ("--shapes", "9b"),
        ("--parts", "all"),
        ("--depths", "1"),
        ("--decode-sizes", "1"),
        ("--tokens", "0"),
        ("--limit-s", "0"),
        ("--service-strategies", "plain"),
    ],
)
def test_a_wrong_command_line_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        parse_orders(list(words))
    assert "error" in capsys.readouterr().err


def test_several_ranks_on_one_gpu_are_told_apart_and_staged_in_host_memory():
    own = settings("--ranks", "2")
    partition = {"CUDA_MPS_PIPE_DIRECTORY": "/x", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"}
    environs = [environment(own, rank, num_gpus=1, partition=partition) for rank in range(2)]
    assert environs[0]["NCCL_HOSTID"] != environs[1]["NCCL_HOSTID"]
    assert environs[0]["NCCL_P2P_DISABLE"] == "1"
    assert environs[0]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"
    testbed = describe(own, (H200,), is_partitioned=True)
    assert testbed.name.startswith("one-GPU testbed")
    assert not testbed.is_time_sliced
    assert describe(own, (H200,), is_partitioned=False).is_time_sliced
    assert serial_names(own, num_devices=1) == ()


def test_multicast_is_off_and_peers_are_reached_unless_the_link_is_the_hosts():
    usual, staged = settings(), settings("--link", "host")
    environ = environment(usual, 0, num_gpus=2, partition={})
    assert (environ["NCCL_NVLS_ENABLE"], environ["TORCH_SYMM_MEM_DISABLE_MULTICAST"]) == ("0", "1")
    assert "NCCL_P2P_DISABLE" not in environ
    assert environment(staged, 0, num_gpus=2, partition={})["NCCL_P2P_DISABLE"] == "1"
    assert serial_names(usual, num_devices=2) == ("nccl", "copy-engine", "symm-one-shot", "symm-two-shot")
    assert serial_names(staged, num_devices=2) == ("nccl", "copy-engine")


def test_interleaving_uses_what_the_ranks_choose_unless_told_otherwise():
    assert exchange_name(settings(), num_devices=2) == "auto"
    assert exchange_name(settings(), num_devices=1) == "copy-engine"
    assert exchange_name(settings("--exchange", "nccl"), num_devices=2) == "nccl"
    assert exchange_name(settings("--device", "cpu"), num_devices=0) == "gloo"
    assert "nccl" not in serial_names(settings("--exchange", "nccl"), num_devices=2)
