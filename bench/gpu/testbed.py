"""The GPUs of this machine, which rank gets which, and partitions of one GPU by MPS."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.gpu.settings import Settings
from bench.gpu.words import SYMMETRIC

_MPS: Final = "nvidia-cuda-mps-control"
_COMMAND_LIMIT_S: Final = 20.0
_START_LIMIT_S: Final = 10.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Testbed:
    """What ranks run on."""

    name: str  # to be quoted with every figure
    gpus: tuple[str, ...]  # names
    ranks: int
    link: str
    is_partitioned: bool  # ranks share one GPU, each with its part of the processors
    is_time_sliced: bool  # ranks share one GPU, one at a time: every exchange costs milliseconds
    note: str = ""


def find_gpus() -> tuple[str, ...]:
    """Return the names of this machine's GPUs; none where there is no driver."""
    command = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()


def device_of(settings: Settings, rank: int, num_devices: int) -> str:
    """Return a rank's device, as a worker's config names it. All GPUs stay visible: peers open one another's memory."""
    return "cpu" if settings.device == "cpu" else f"cuda:{rank % max(num_devices, 1)}"


def exchange_name(settings: Settings, *, num_devices: int) -> str:
    """Return the communicator of interleaving; ranks that share a GPU have copy engines alone."""
    if settings.exchange:
        return settings.exchange
    if settings.device == "cpu":
        return "gloo"
    return "auto" if num_devices >= settings.ranks else "copy-engine"


def serial_names(settings: Settings, *, num_devices: int) -> tuple[str, ...]:
    """Return the communicators of serial tensor parallelism beside the one that interleaving uses.

    On one GPU NCCL goes over sockets and symmetric memory over the GPU's own, so neither is a baseline; where the link
    is staged in host memory there is no symmetric memory.
    """
    if settings.device == "cpu" or num_devices < settings.ranks:
        return ()
    names = ("nccl", "copy-engine", *(SYMMETRIC if settings.link == "auto" else ()))
    return tuple(name for name in names if name != exchange_name(settings, num_devices=num_devices))


def describe(settings: Settings, gpus: tuple[str, ...], *, is_partitioned: bool, note: str = "") -> Testbed:
    """Return what a run is on."""
    num_gpus = 0 if settings.device == "cpu" else len(gpus)
    shares = 0 < num_gpus < settings.ranks
    if settings.device == "cpu":
        name = f"{settings.ranks} CPU ranks over loopback (proves the bench, measures nothing of a GPU)"
    elif shares:
        name = f"one-GPU testbed: {settings.ranks} ranks on {num_gpus} × {gpus[0]}"
    else:
        name = f"{settings.ranks} × {gpus[0]}"
    staged = settings.link == "host" or shares
    link = "loopback" if settings.device == "cpu" else "staged in host memory" if staged else "as the machine has it"
    return Testbed(
        name=name,
        gpus=gpus[: settings.ranks] if settings.device != "cpu" else (),
        ranks=settings.ranks,
        link=link,
        is_partitioned=is_partitioned,
        is_time_sliced=shares and not is_partitioned,
        note=note,
    )


def environment(settings: Settings, rank: int, *, num_gpus: int, partition: Mapping[str, str]) -> dict[str, str]:
    """Return what a rank's process has in its environment beside this one's.

    Args:
        settings: What is measured.
        rank: Whose.
        num_gpus: Of this machine.
        partition: Of the MPS daemon that it is a client of; empty for none.
    """
    threads = max(1, (os.cpu_count() or 1) // settings.ranks) if settings.device == "cuda" else 1
    own = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", "GLOO_SOCKET_IFNAME": "lo"}
    if settings.device == "cpu":
        return own
    own |= {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "CUDA_DEVICE_MAX_CONNECTIONS": "16"}
    shares = num_gpus < settings.ranks
    if settings.link == "host" or shares:  # the copy engine, too, then stages in host memory
        own["NCCL_P2P_DISABLE"] = "1"
    if shares:
        own |= {
            "NCCL_HOSTID": f"bench-{rank}",
            "NCCL_SOCKET_IFNAME": "lo",
            "NCCL_IB_DISABLE": "1",
            "TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES": "1",
        }
    return own | dict(partition)


@contextmanager
def partitions(num_ranks: int) -> Iterator[Mapping[str, str]]:
    """Give the environment of clients of an MPS daemon of our own, each with its share of the processors.

    Empty if there is none to be had. The daemon, and what it started, is gone after the block.
    """
    if shutil.which(_MPS) is None:
        yield {}
        return
    folder = Path(tempfile.mkdtemp(prefix="liger-mps-"))
    places = {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}
    for place in places.values():
        Path(place).mkdir()
    daemon = _start(places)
    try:
        share = {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(max(1, 100 // num_ranks))}
        yield places | share if _listens(daemon, Path(places["CUDA_MPS_PIPE_DIRECTORY"])) else {}
    finally:
        _end(daemon, places)
        shutil.rmtree(folder, ignore_errors=True)


def _start(places: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        (_MPS, "-f"),
        env={**os.environ, **places},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _listens(daemon: "subprocess.Popen[bytes]", pipes: Path) -> bool:
    limit_s = time.monotonic() + _START_LIMIT_S
    while daemon.poll() is None and time.monotonic() < limit_s:
        if any(pipes.iterdir()):
            return True
        time.sleep(_POLL_S)
    return False


def _end(daemon: "subprocess.Popen[bytes]", places: Mapping[str, str]) -> None:
    """Ask the daemon to quit, then kill its session; only what we started is in that."""
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            (_MPS,),
            input=b"quit\n",
            env={**os.environ, **places},
            capture_output=True,
            timeout=_COMMAND_LIMIT_S,
            check=False,
        )
    with suppress(subprocess.TimeoutExpired):
        daemon.wait(timeout=_START_LIMIT_S)
    with suppress(ProcessLookupError):
        os.killpg(daemon.pid, signal.SIGKILL)
    daemon.wait()
