import os
import select
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from liger.cli.worker_options import Communicator
from tests.unit.liger.models.folders import write_folder
from worker.config import COMMUNICATORS

SERVICES = Path(__file__).parents[1] / "local_cluster" / "fake_services"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "a", "--model", "b", "--workers", "2"], "2 --model but 1 --workers"),
        (["--model", "a", "--copies", "1", "--copies", "1"], "1 --model but 2 --copies"),
        (["--model", "a", "--workers", "0"], "must be at least 1"),
        (["--model", "a", "--port", "70000"], "65535"),
        (["--model", "a", "--device", "tpu"], "'cpu', 'cuda'"),
        (["--model", "a", "--communicator", "null"], "'copy-engine'"),
        ([], "--model"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_starts(liger, arguments, message):
    done = liger("up", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_a_model_that_is_not_there_is_named(liger):
    done = liger("up", "--model", "nonsense")
    assert done.exit_code == 1
    assert "[MODEL_NOT_FOUND]" in done.stderr


@pytest.fixture
def up(tmp_path):
    """Start `liger up` with fake services; give the process and its lines before the one that has a text."""
    started = []

    def start(until: str, *arguments: str) -> "tuple[subprocess.Popen[str], list[str]]":
        folder = write_folder(tmp_path / "tiny")
        environ = {**os.environ, "PYTHONPATH": str(SERVICES), "LIGER_HOME": str(tmp_path / "home")}
        command = [
            sys.executable,
            "-P",
            "-m",
            "liger.cli.main",
            "up",
            "--model",
            str(folder),
            "--port",
            "0",
            *arguments,
        ]
        process = subprocess.Popen(
            [*command, "--controller-port", "0"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        said = []
        while until not in (line := process.stdout.readline()):
            said.append(line)
            assert line, "".join(said)
        return process, said

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def services_of(process: "subprocess.Popen[str]") -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def assert_gone(pids: list[int]) -> None:
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended, _, _ = select.select([descriptor], [], [], 30)
        os.close(descriptor)
        assert ended, f"process {pid} still runs"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_drains_and_stops_everything(up, number):
    process, _ = up("Ctrl-C drains", "--workers", "2")
    pids = services_of(process)
    assert len(pids) == 4

    process.send_signal(number)

    assert "draining" in process.stdout.read()
    assert process.wait(timeout=60) == 0
    assert_gone(pids)


def test_a_second_signal_stops_at_once(up, monkeypatch):
    process, _ = up("Ctrl-C drains")
    pids = services_of(process)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # nobody drains

    process.send_signal(signal.SIGINT)
    while "draining" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=20) == 0
    assert_gone(pids)


def test_each_group_gets_a_state_line(up):
    process, said = up("Ctrl-C drains", "--copies", "2")
    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=60) == 0
    lines = [line.split() for line in said]
    assert ["tiny-1", "serving", "1/1", "ranks", "epoch", "0"] in lines
    assert ["tiny-2", "serving", "1/1", "ranks", "epoch", "0"] in lines


def test_a_service_that_dies_ends_the_command_with_its_reason(up):
    process, _ = up("Ctrl-C drains")
    pids = services_of(process)
    _controller, gateway, _worker = pids

    os.kill(gateway, signal.SIGKILL)

    assert "gateway ended (signal 9)" in process.stdout.read()
    assert process.wait(timeout=60) == 1
    assert_gone(pids)


def read_until(process: "subprocess.Popen[str]", text: str) -> None:
    while text not in (line := process.stdout.readline()):
        assert line, f"{text!r} was never said"


def test_a_worker_that_dies_is_started_again_but_not_for_ever(up):
    process, _ = up("Ctrl-C drains")
    for _ in range(3):
        os.kill(services_of(process)[-1], signal.SIGKILL)
        read_until(process, "worker-tiny-0 is back")
    pids = services_of(process)

    os.kill(pids[-1], signal.SIGKILL)

    assert "worker-tiny-0 ended (signal 9)" in process.stdout.read()
    assert process.wait(timeout=60) == 1
    assert_gone(pids)


def flags_of(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return {name: value for name, value in pairwise(words) if name.startswith("--")}


def test_memory_options_reach_the_workers(up):
    process, _ = up("Ctrl-C drains", "--kv-memory-fraction", "0.25", "--kv-cache-gib", "0.5")
    _controller, _gateway, worker = services_of(process)

    flags = flags_of(worker)

    assert flags["--kv-memory-fraction"] == "0.25"
    assert flags["--kv-cache-gib"] == "0.5"


def test_workers_compute_on_the_cpu_unless_told_otherwise(up):
    process, _ = up("Ctrl-C drains")

    flags = flags_of(services_of(process)[-1])

    assert (flags["--device"], flags["--communicator"], flags["--dtype"]) == ("cpu", "auto", "float32")


def test_workers_share_the_gpus_out_in_turn(up, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    process, _ = up("Ctrl-C drains", "--workers", "3", "--device", "cuda", "--communicator", "copy-engine")

    flags = [flags_of(pid) for pid in services_of(process)[2:]]

    assert sorted((one["--rank"], one["--device"]) for one in flags) == [
        ("0", "cuda:0"),
        ("1", "cuda:1"),
        ("2", "cuda:0"),
    ]
    assert {(one["--communicator"], one["--dtype"]) for one in flags} == {("copy-engine", "bfloat16")}


def test_gpus_that_are_not_there_are_told_before_anything_starts(liger, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = liger("up", "--model", "a", "--device", "cuda")
    assert done.exit_code == 2
    assert "there is no GPU here" in " ".join(done.stderr.split())


def test_what_up_passes_on_is_what_workers_take():
    assert {one.value for one in Communicator} == {*COMMUNICATORS} - {"null"}
