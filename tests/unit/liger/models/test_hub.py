import json
import os
import subprocess
import sys

import pytest

from tests.unit.liger.models.folders import write_folder
from tests.unit.liger.models.hub_server import serve_model

PROGRAM = """
import json, sys
from liger.errors import LigerError
from liger.models import list_models, resolve
seen = []
try:
    folder = resolve(sys.argv[1], lambda phase, fraction: seen.append((phase, fraction)))
except LigerError as error:
    print(json.dumps({"reason": error.reason, "message": error.message}))
else:
    names = [model.name for model in list_models() if model.folder]
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    print(json.dumps({"files": files, "seen": seen, "names": names}))
"""


@pytest.fixture
def resolve_in_process(tmp_path):
    """Resolve in a process of its own: huggingface_hub reads its environment when it is imported."""

    def run(reference: str, endpoint: str, **environ: str):
        own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "LIGER_HOME": str(tmp_path / "home")}
        own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-c", PROGRAM, reference]
        done = subprocess.run(
            command, env={**os.environ, **own, **environ}, capture_output=True, text=True, check=True, timeout=120
        )
        return json.loads(done.stdout)

    return run


@pytest.fixture
def folder(tmp_path):
    folder = write_folder(tmp_path / "source")
    (folder / "README.md").write_text("not needed")
    (folder / "pytorch_model.bin").write_bytes(bytes(100))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def test_only_what_is_needed_is_downloaded_with_progress(folder, resolve_in_process):
    with serve_model(folder, "owner/tiny") as (endpoint, requested):
        found = resolve_in_process("owner/tiny", endpoint)

    needed = ["1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"]
    assert found["files"] == needed
    assert set(requested) == set(needed)
    assert found["seen"][0] == ["downloading owner/tiny", 0.0]
    assert found["seen"][-1] == ["downloading owner/tiny", 1.0]
    assert found["names"] == ["owner/tiny"]


def test_what_was_downloaded_serves_when_the_hub_is_away(folder, resolve_in_process):
    with serve_model(folder, "owner/tiny") as (endpoint, _):
        resolve_in_process("owner/tiny", endpoint)

    assert "config.json" in resolve_in_process("owner/tiny", endpoint)["files"]
    assert "config.json" in resolve_in_process("owner/tiny", endpoint, HF_HUB_OFFLINE="1")["files"]


def test_an_unreachable_hub_says_what_to_check(resolve_in_process):
    error = resolve_in_process("owner/tiny", "http://127.0.0.1:9")

    assert error["reason"] == "MODEL_FOLDER"
    assert "cannot bring owner/tiny from http://127.0.0.1:9" in error["message"]
    assert "or give a local folder" in error["message"]


def test_offline_mode_says_what_to_check(resolve_in_process):
    error = resolve_in_process("owner/tiny", "http://127.0.0.1:9", HF_HUB_OFFLINE="1")

    assert error["reason"] == "MODEL_FOLDER"
    assert "give a local folder" in error["message"]


def test_an_unknown_model_is_not_found(folder, resolve_in_process):
    with serve_model(folder, "owner/tiny") as (endpoint, _):
        error = resolve_in_process("owner/other", endpoint)

    assert error["reason"] == "MODEL_NOT_FOUND"
    assert "has no model owner/other" in error["message"]


def test_a_model_without_safetensors_is_refused(folder, resolve_in_process):
    (folder / "model.safetensors").unlink()
    with serve_model(folder, "owner/tiny") as (endpoint, _):
        error = resolve_in_process("owner/tiny", endpoint)

    assert error["reason"] == "MODEL_FOLDER"
    assert "models need config.json and safetensors weights" in error["message"]
