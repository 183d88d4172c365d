"""The `liger` command with the two packaged models on a real cluster."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from liger.cli.main import app
from liger.v1.inference_pb2 import ListModelsRequest
from liger.v1.inference_pb2_grpc import InferenceServiceStub

pytestmark = pytest.mark.models

CHAT = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"
UP = [sys.executable, "-m", "liger.cli.main", "up", "--port", "0", "--controller-port", "0"]


@dataclass
class Up:
    """A running `liger up`."""

    process: "subprocess.Popen[str]"
    said: str
    gateway: str
    controller: str

    def run(self, *arguments: str):
        environ = {"LIGER_GATEWAY": self.gateway, "LIGER_CONTROLLER": self.controller}
        return CliRunner().invoke(app, arguments, env=environ)


def start_up(*arguments: str) -> Up:
    process = subprocess.Popen([*UP, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = ""
    while "Ctrl-C drains" not in said:
        line = process.stdout.readline()
        said += line
        assert line, said
    gateway, controller = (re.search(rf"{name} (127\.0\.0\.1:\d+)", said)[1] for name in ("serving at", "controller"))
    return Up(process, said, gateway, controller)


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    started = start_up("--model", CHAT, "--workers", "1", "--model", EMBEDDER, "--workers", "2")
    yield started
    started.process.send_signal(signal.SIGINT)
    started.process.communicate(timeout=120)
    assert started.process.returncode == 0


def test_each_group_has_a_state_line(up):
    lines = [line.split()[:4] for line in up.said.splitlines()]
    assert [CHAT, "serving", "1/1", "ranks"] in lines
    assert [EMBEDDER, "serving", "2/2", "ranks"] in lines


def test_generate_streams_the_models_answer(up):
    done = up.run("generate", "What is the capital of France?", "--max-tokens", "16")

    assert done.exit_code == 0
    assert done.stdout == "The capital of France is Paris.\n"
    assert f"ranks {CHAT}" in done.stderr


def test_raw_text_and_drawn_samples_are_told_by_json(up):
    arguments = ("generate", "Once upon a time", "--raw", "--n", "2", "--temperature", "1", "--seed", "7", "--json")
    first, again = (json.loads(up.run(*arguments, "--max-tokens", "8").stdout) for _ in range(2))

    assert len(first["samples"]) == 2
    assert [sample["num_tokens"] for sample in first["samples"]] == [8, 8]
    assert first["samples"] == again["samples"]
    assert first["seed"] == 7


def test_embed_finds_a_kitten_nearer_to_a_cat_than_a_gpu(up):
    vectors = json.loads(up.run("embed", "a cat", "a kitten", "a GPU", "--json").stdout)["embeddings"]
    near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
    assert near > far + 0.2


def test_score_prefers_france(up):
    arguments = (
        "score",
        "--context",
        "Paris is the capital of",
        "--continuation",
        " France",
        "--continuation",
        " Japan",
    )
    france, japan = json.loads(up.run(*arguments, "--json").stdout)["scores"]
    assert france["logprob"] > japan["logprob"]


def test_models_are_listed_on_the_wire(up):
    with grpc.insecure_channel(up.gateway) as channel:
        listed = InferenceServiceStub(channel).ListModels(ListModelsRequest(), timeout=60).models

    assert [entry.model.name for entry in listed] == sorted([CHAT, EMBEDDER])
    assert {entry.model.name: entry.has_chat_template for entry in listed} == {CHAT: True, EMBEDDER: False}


def test_status_shows_every_rank(up):
    groups = json.loads(up.run("status", "--json").stdout)["groups"]
    assert {group["name"]: len(group["ranks"]) for group in groups} == {CHAT: 1, EMBEDDER: 2}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("generate", "x", "--model", "nonsense"), "MODEL_NOT_FOUND"),
        (("generate", "x", "--model", EMBEDDER), "UNSUPPORTED_TASK"),
        (("generate", "x", "--temperature", "-1"), "INVALID_REQUEST"),
        (("embed", ""), "INVALID_REQUEST"),
        (("drain", "nonsense"), "INVALID_REQUEST"),
    ],
)
def test_a_bad_call_is_one_line_with_its_reason(up, arguments, reason):
    done = up.run(*arguments)

    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith(f"[{reason}]\n")


def test_grpcurl_lists_the_services(up):
    grpcurl = shutil.which("grpcurl", path=Path(sys.executable).parent)
    command = [grpcurl, "-plaintext", up.gateway]
    listed = subprocess.run([*command, "list"], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    health = subprocess.run(
        [*command, "grpc.health.v1.Health/Check"], capture_output=True, text=True, check=True, timeout=60
    )

    assert {"liger.v1.InferenceService", "grpc.health.v1.Health"} <= set(listed)
    assert json.loads(health.stdout) == {"status": "SERVING"}


def test_a_used_port_is_told_by_the_service_that_wanted_it(up):
    port = up.gateway.rpartition(":")[2]
    command = [
        sys.executable,
        "-m",
        "liger.cli.main",
        "up",
        "--model",
        EMBEDDER,
        "--port",
        port,
        "--controller-port",
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 2
    assert f"gateway did not start: cannot listen on 127.0.0.1:{port}: the port is in use" in done.stderr


def test_a_drained_group_takes_no_more_work():
    started = start_up("--model", EMBEDDER)
    try:
        assert started.run("embed", "a cat").exit_code == 0
        assert started.run("drain", EMBEDDER, "--timeout", "5").stdout == f"{EMBEDDER}: 0 finished, 0 given up\n"
        assert started.run("embed", "a cat").exit_code == 1
        started.process.send_signal(signal.SIGINT)
        assert started.process.wait(timeout=120) == 0
    finally:
        started.process.kill()
        started.process.communicate()


def test_the_demo_shows_an_answer_similarities_and_a_score_and_leaves_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "liger.cli.main", "demo"], capture_output=True, text=True, check=True, timeout=300
    )

    assert "The capital of France is Paris" in done.stdout
    assert "1 a cat sleeps on the sofa" in done.stdout
    assert "' France'" in done.stdout
    assert done.stdout.count(f"ranks {CHAT}-") == 2
    assert done.stdout.rstrip().endswith("Stopped: nothing is left running.")
