"""Kernels compute what their formulas say; Triton's interpreter runs them where there is no device."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.architecture.source import ROOT


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton, which comes with torch's CUDA builds")
@pytest.mark.parametrize("dtype", ["float32", "float16"])  # the interpreter cuts bfloat16 instead of rounding it
def test_interpreted_kernels_follow_their_formulas(dtype: str) -> None:
    environ = {**os.environ, "TRITON_INTERPRET": "1"}  # read once, when triton is imported
    command = [sys.executable, "-m", "tests.support.kernel_checks", dtype]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
