import json

from bench.planner import DEPTH, main


def test_planning_is_measured_and_written(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main(["--layers", "2", "--rounds", "1", "--json", str(out)]) == 0
    (run,) = json.loads(out.read_text())["runs"]
    assert run["num_layers"] == 2
    assert 0 < run["median_us"] <= run["p99_us"]
    assert [search["num_batches"] for search in run["searches"]] == list(range(1, DEPTH + 2))
    assert "cached windows at depth 3" in capsys.readouterr().out
