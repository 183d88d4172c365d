"""What a service's process does first: `python -m liger.local_cluster.child PARENT_PID MODULE ARGUMENTS…`.

It asks the kernel (Linux: prctl, PR_SET_PDEATHSIG) to be killed when its parent ends, however that ends, and then runs
the service's module. Done here, after exec, because code between fork and exec is not safe beside threads.
"""

import ctypes
import os
import runpy
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with(parent_pid: int) -> None:
    """Have this process killed when its parent ends; end at once if it already has."""
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit(f"the process {parent_pid} that started this one has ended")


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    sys.argv[:] = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
