import json
import sys

import pytest

from bench.gpu import __main__ as bench_gpu
from bench.gpu.service import plane_tokens_per_s
from bench.gpu.settings import parse_orders

SMALL = [
    "--device", "cpu", "--dtype", "float32", "--shapes", "tiny", "--tokens", "128", "--layers", "2",
    "--decode-sizes", "4", "--context", "32", "--chunk", "32", "--rounds", "1", "--flow-ms", "5",
    "--profile-limit-s", "1", "--limit-s", "240",
]  # fmt: skip
COLUMNS = {
    "shape", "tokens", "link", "compute_ms", "serial_nccl_ms", "serial_best_ms", "interleaved_ms", "pipeline_ms",
    "gain_vs_nccl", "gain_vs_best_serial", "hidden_fraction", "max_rel_error", "bound",
}  # fmt: skip


def test_two_cpu_ranks_measure_all_rows_and_give_the_references_results(tmp_path, capfd):
    out = tmp_path / "out.json"
    assert bench_gpu.main([*SMALL, "--parts", "profile,data-plane,decode", "--json", str(out)]) == 0
    table = json.loads(out.read_text())
    assert table["status"] == "complete"
    assert table["profile"]
    (plane,), (decode,) = table["data_plane"], table["decode"]
    assert plane.keys() >= COLUMNS
    assert plane["max_rel_error"] < 1e-5
    assert plane["rel_errors"].keys() == {"gloo", "interleaved 3"}
    assert plane["serial_nccl_ms"] is None
    assert min(plane["compute_ms"], plane["serial_best_ms"], plane["interleaved_ms"], plane["pipeline_ms"]) > 0
    assert decode["chosen"] in {"merged", "halves"}
    assert decode["chosen_slower"] >= 0
    assert min(decode["merged_ms"], decode["halves_interleaved_ms"], decode["halves_in_turn_ms"]) > 0
    assert decode["mixed_serial"]["gap_p90_ms"] > 0
    assert table["summary"]["tiny"]["throughput_vs_tensor"] == plane["gain_vs_best_serial"]
    printed = capfd.readouterr().out
    assert "proves the bench" in printed
    assert "bound" in printed


def test_without_a_gpu_it_says_aloud_that_nothing_was_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_gpu, "find_gpus", lambda: ())
    out = tmp_path / "out.json"
    assert bench_gpu.main(["--json", str(out)]) == 0
    assert "NOTHING WAS MEASURED" in capsys.readouterr().out
    table = json.loads(out.read_text())
    assert table["status"] == "nothing was measured: no GPU"
    assert table["data_plane"] == []


def test_what_cannot_be_finished_leaves_its_rows_and_an_error(tmp_path, capfd):
    out = tmp_path / "out.json"
    code = bench_gpu.main([*SMALL[:-1], "0.05", "--parts", "data-plane", "--json", str(out)])
    assert code == 1
    assert json.loads(out.read_text())["status"].startswith("cut short: the time is over")
    assert "error: the time is over" in capfd.readouterr().err


def test_the_parent_of_the_ranks_starts_without_torch():
    names = [name for name in sys.modules if name.startswith("bench.gpu.")]
    assert "bench.gpu.__main__" in names
    code = "import sys, bench.gpu.__main__; sys.exit('torch' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("strategy", "expected"), [("tensor", 1e3 * 2048 / 16), ("interleaved", 1e3 * 2048 / 8)])
def test_the_service_is_compared_with_as_many_layers_of_the_data_plane(strategy, expected):
    settings = parse_orders(["--layers", "4", "--service-layers", "16", "--service-tokens", "2048"]).settings
    rows = [
        {"shape": "8b", "tokens": 512, "serial_same_exchange_ms": 1.0, "interleaved_ms": 1.0},
        {"shape": "8b", "tokens": 2048, "serial_same_exchange_ms": 4.0, "interleaved_ms": 2.0},
    ]
    assert plane_tokens_per_s(rows, settings, "8b", strategy) == pytest.approx(expected)
    assert plane_tokens_per_s([], settings, "8b", strategy) is None
