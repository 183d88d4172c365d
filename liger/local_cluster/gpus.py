"""Counts this machine's GPUs without torch, which only workers have."""

import os
import subprocess
from collections.abc import Mapping
from typing import Final

_LIST: Final = ("nvidia-smi", "--list-gpus")
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_LIMIT_S: Final = 20.0


def count_gpus(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many GPUs processes with an environment see: those it names, else all that the driver lists."""
    if _VISIBLE in environ:
        named = [name.strip() for name in environ[_VISIBLE].split(",")]
        hidden = [place for place, name in enumerate(named) if name in ("", "-1")]  # CUDA sees none from there on
        return min(hidden, default=len(named))
    try:
        listed = subprocess.run(_LIST, capture_output=True, text=True, timeout=_LIMIT_S, check=False, env=dict(environ))
    except (OSError, subprocess.TimeoutExpired):
        return 0
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    return sum(line.startswith("GPU ") for line in lines)  # partitions of one stand indented below it
