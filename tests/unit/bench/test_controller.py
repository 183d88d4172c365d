import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from bench.controller.__main__ import main
from bench.controller.made_up import MOST_TOKENS, Load
from bench.controller.meter import LEAST_STEPS, OTHERS, Meter


@pytest.mark.parametrize("strategy", ["interleaved", "tensor"])
def test_the_controller_is_measured_in_three_ways_and_written(tmp_path, capsys, strategy):
    out = tmp_path / "out.json"
    before = os.sched_getaffinity(0)
    assert main(["--sequences", "8", "--seconds", "0.5", "--strategy", strategy, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert [each["name"] for each in report["in_process"]] == ["scheduler alone", "with messages, without gRPC"]
    for each in report["in_process"]:
        assert each["num_steps"] >= LEAST_STEPS
        assert 0 < each["median_ms"] <= each["p99_ms"]
        assert OTHERS not in each["parts_ms"]
    assert report["service"]["tokens_per_s"] > 0
    assert min(report["service"]["loop_ms"], report["service"]["controller_ms"]) >= 0  # in ticks of 10 ms
    assert report["machine"]["processor"]
    assert "set the pace" in capsys.readouterr().out
    assert os.sched_getaffinity(0) == before
    assert not psutil.Process().children(), "every process is ended"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process_behind(number):
    command = [sys.executable, "-m", "bench.controller", "--sequences", "4", "--seconds", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as bench:
        assert bench.stderr is not None
        for line in bench.stderr:
            if line.startswith("3 of 3"):
                break
        children: list[psutil.Process] = []
        while not children and bench.poll() is None:  # until it has started the controller
            children = psutil.Process(bench.pid).children(recursive=True)
        bench.send_signal(number)
        assert bench.wait(60) == 130
    assert children
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


@pytest.mark.parametrize(
    "flags",
    [["--sequences", "0"], ["--sequences", "9999"], ["--ranks", "0"], ["--seconds", "nan"], ["--strategy", "x"]],
)
def test_settings_that_cannot_be_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err


def test_the_first_generations_end_at_different_times_and_prompts_differ():
    submits = Load(64).submits()
    first = [next(submits).submit for _ in range(64)]
    assert len({each.generate.max_tokens for each in first}) == 64
    assert len({tuple(each.generate.prompt_token_ids) for each in first}) == 64
    assert next(submits).submit.generate.max_tokens == MOST_TOKENS


def test_time_of_others_is_not_the_controllers():
    meter = Meter(1, 0.0, rest=OTHERS)
    for _ in range(2 * LEAST_STEPS):
        sum(range(20_000))
        with meter.part("work"):
            sum(range(1_000))
        meter.made(1)
    figures = meter.figures("x")
    assert meter.is_done
    assert (figures.num_steps, figures.windows_per_step) == (LEAST_STEPS, 1.0)
    assert list(figures.parts_ms) == ["work"]
