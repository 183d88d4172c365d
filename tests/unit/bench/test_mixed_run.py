import json

import psutil
import pytest

from bench.mixed.__main__ import main as mixed
from bench.mixed.figures import Phase
from bench.prefix import main as prefix

pytestmark = [pytest.mark.models, pytest.mark.slow]


def test_all_phases_are_measured_on_real_clusters_and_no_process_is_left(tmp_path, capsys):
    out = tmp_path / "out.json"
    flags = ["--seconds", "4", "--warm-up", "1", "--rounds", "1", "--streams", "2", "--outstanding", "4"]
    assert mixed([*flags, "--json", str(out)]) == 0
    assert not psutil.Process().children()
    runs = {run["phase"]: run for run in json.loads(out.read_text())["runs"]}
    assert set(runs) == set(Phase)
    assert all(runs[phase]["streams"]["num_tokens"] > 0 for phase in set(Phase) - {Phase.SATURATION})
    assert runs[Phase.SATURATION]["embeddings"]["calls_per_s"] > 0
    assert {share["weight"] for share in runs[Phase.WEIGHTED]["ranks"]["task_shares"]} == {1.0, 4.0}
    assert {share["weight"] for share in runs[Phase.UNWEIGHTED]["ranks"]["task_shares"]} == {1.0}
    assert "vs alone" in capsys.readouterr().out


def test_a_shared_beginning_is_cached_and_others_are_not(tmp_path):
    out = tmp_path / "out.json"
    flags = ["--prompt-tokens", "64", "--requests", "2", "--rounds", "1"]
    assert prefix([*flags, "--json", str(out)]) == 0
    assert not psutil.Process().children()
    probes = json.loads(out.read_text())["probes"]
    cached = {(probe["is_shared"], probe["number"]): probe["cached_tokens"] for probe in probes}
    assert cached[True, 1] >= 48
    assert max(cached[True, 0], cached[False, 0], cached[False, 1]) < 48


def test_weights_that_cannot_be_are_refused_with_the_controllers_words(capsys):
    assert mixed(["--weights", "generate=0", "--seconds", "1", "--rounds", "1"]) == 2
    assert "--task-weights takes" in capsys.readouterr().err
    assert not psutil.Process().children()
