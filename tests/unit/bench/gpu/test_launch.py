import os
import signal
import threading
import time
from pathlib import Path

import pytest

from bench.gpu.launch import RankCommand, Ranks
from liger.errors import UnavailableError

FAR_S = 60.0


def command(tmp_path: Path, name: str, code: str) -> RankCommand:
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    return RankCommand(module=name, arguments=(), environ={"PYTHONPATH": str(tmp_path)})


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


SLEEPER = "import time\nprint('here', flush=True)\ntime.sleep(600)\n"


def test_records_and_lines_are_told_apart(tmp_path):
    code = """print('@{"kind": "decode", "row": {"a": 1}}')\nprint("hello")\nprint("@ no record")\n"""
    records, lines = [], []
    with Ranks([command(tmp_path, "one", code)]) as ranks:
        ranks.follow(
            lambda kind, row: records.append((kind, row)),
            lambda rank, line: lines.append((rank, line)),
            until_s=time.time() + FAR_S,
        )
    assert records == [("decode", {"a": 1})]
    assert lines == [(0, "hello"), (0, "@ no record")]


def test_when_a_rank_dies_all_end_and_its_last_words_are_told(tmp_path):
    dying = command(tmp_path, "dying", "import sys\nprint('alas')\nsys.exit(3)\n")
    with Ranks([command(tmp_path, "sleeper", SLEEPER), dying]) as ranks:
        pids = ranks.pids
        with pytest.raises(UnavailableError, match="rank 1 ended with exit code 3") as caught:
            ranks.follow(lambda *_: None, lambda *_: None, until_s=time.time() + FAR_S)
    assert "alas" in caught.value.message
    assert not any(map(is_running, pids))


def test_when_the_time_is_over_all_end(tmp_path):
    with Ranks([command(tmp_path, "sleeper", SLEEPER)] * 2) as ranks:
        pids = ranks.pids
        with pytest.raises(UnavailableError, match="time is over"):
            ranks.follow(lambda *_: None, lambda *_: None, until_s=time.time())
    assert not any(map(is_running, pids))


def test_an_interrupt_ends_all(tmp_path):
    here = threading.Event()

    def interrupt(rank: int, line: str) -> None:
        here.set()
        raise KeyboardInterrupt

    with Ranks([command(tmp_path, "sleeper", SLEEPER)] * 2) as ranks:
        pids = ranks.pids
        with pytest.raises(KeyboardInterrupt):
            ranks.follow(lambda *_: None, interrupt, until_s=time.time() + FAR_S)
    assert here.is_set()
    assert not any(map(is_running, pids))


def test_ranks_end_with_their_parent(tmp_path):
    """A rank asks the kernel for it, so even a killed parent leaves none."""
    code = f"import signal\nprint('here', flush=True)\nsignal.pause()  # {signal.SIGKILL}\n"
    with Ranks([command(tmp_path, "waiter", code)]) as ranks:
        (pid,) = ranks.pids
        assert os.getpgid(pid) == pid  # a session of its own: a Ctrl-C meant for the parent does not reach it
    assert not is_running(pid)
