"""The kernel that picks from a shard, by Triton's interpreter where there is no device."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.architecture.source import ROOT


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton, which comes with torch's CUDA builds")
def test_the_interpreted_kernel_picks_what_the_host_picks() -> None:
    environ = {**os.environ, "TRITON_INTERPRET": "1"}  # read once, when triton is imported
    command = [sys.executable, "-m", "tests.unit.worker.sampling.pick_checks"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
