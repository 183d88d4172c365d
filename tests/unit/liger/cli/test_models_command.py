import json

import pytest

from liger.models import references
from tests.unit.liger.models.folders import write_folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(references.hub, "cached", list)


def test_models_without_a_subcommand_lists_them(liger):
    shown = liger("models").stdout

    assert "smollm2-135m-instruct" in shown
    assert "not here yet: liger models pull all-minilm-l6-v2" in shown
    assert len(json.loads(liger("models", "--json").stdout)) == 2


def test_pull_checks_and_describes_a_folder(liger, tmp_path):
    done = liger("models", "pull", str(write_folder(tmp_path / "Tiny", "BertModel")))

    assert done.exit_code == 0
    assert done.stdout.startswith("tiny: BertModel")


def test_pull_of_nothing_is_one_line_with_its_reason(liger):
    done = liger("models", "pull", "nonsense")

    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith("[MODEL_NOT_FOUND]\n")
