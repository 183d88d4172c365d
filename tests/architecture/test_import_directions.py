import os
import shutil
import subprocess
import sys

import pytest

from tests.architecture.source import PACKAGES, ROOT

PLANTED = {
    "Services meet only in messages": ("gateway/planted.py", "import controller"),
    "What all share stands on no service": ("liger/planted.py", "import worker"),
    "Torch only in the worker": ("controller/planted.py", "import torch"),
    "No numpy in the control plane": ("gateway/planted_too.py", "import numpy"),
    "The worker's config, session, servicer and codec hold no torch": ("worker/config.py", "import torch"),
    "The controller's core is pure": ("controller/core/planted.py", "import time"),
}


def lint_imports(folder) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", program, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def verdicts(output: str) -> dict[str, str]:
    lines = [line.rpartition(" ") for line in output.splitlines()]
    return {name: verdict for name, _, verdict in lines if verdict in {"KEPT", "BROKEN"}}


def test_every_direction_is_kept():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verdicts(done.stdout) == dict.fromkeys(PLANTED, "KEPT")


@pytest.fixture
def copy(tmp_path):
    """A copy of the packages, for planting what is forbidden."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_direction_notices_a_planted_violation(copy):
    for file, line in PLANTED.values():
        with (copy / file).open("a", encoding="utf-8") as module:
            module.write(f"\n{line}\n")

    done = lint_imports(copy)

    assert done.returncode == 1
    assert verdicts(done.stdout) == dict.fromkeys(PLANTED, "BROKEN")
