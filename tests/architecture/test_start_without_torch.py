"""A gateway or controller image holds no torch: nothing that they load may ask for it."""

import signal
import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "transformers", "safetensors", "gguf"}


def imported(log: str) -> set[str]:
    """Return the top-level packages that `-X importtime` told of."""
    lines = [line for line in log.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize(
    ("service", "flags"),
    [("controller", []), ("gateway", ["--controller", "127.0.0.1:9"])],
)
def test_a_started_service_has_loaded_nothing_heavy(service, flags):
    command = [sys.executable, "-X", "importtime", "-m", service, "--listen", "127.0.0.1:0", "--drain-limit-s", "1"]
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert f"{service} listening on 127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)

    assert process.returncode == 0
    assert {service, "grpc"} <= imported(log)
    assert imported(log) & HEAVY == set()


@pytest.mark.parametrize("service", ["controller", "gateway"])
def test_no_module_of_a_service_loads_anything_heavy(service):
    program = (
        "import importlib, pkgutil, sys\n"
        f"import {service} as service\n"
        "for module in pkgutil.walk_packages(service.__path__, service.__name__ + '.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert set(done.stdout.split()) & HEAVY == set()
