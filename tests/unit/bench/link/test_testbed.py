import os
import shutil
import signal
import subprocess
import sys

import pytest

from bench.link.network import Network
from bench.link.testbed import check_machine, remove_leftovers, slow_link
from liger.errors import ConfigError

NUM_BYTES = 4_000_000
MINE = f"lg{os.getpid()}"
needs_root = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")), reason="needs root and iproute2"
    ),
]


def names() -> str:
    """Return all namespaces and links of this machine."""
    return subprocess.run(
        "ip netns list; ip -o link show", shell=True, capture_output=True, text=True, check=True
    ).stdout


def run_python(network: Network, rank: int, code: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*network.places[rank].prefix, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )  # fmt: skip


def receive(network: Network, rank: int, host: str) -> tuple[subprocess.Popen, str]:
    """Start a receiver that prints its port, then after the end the bytes it got."""
    code = f"""
import socket
server = socket.create_server(({host!r}, 0))
print(server.getsockname()[1], flush=True)
server.settimeout(30)
connection, _ = server.accept()
got = 0
while part := connection.recv(1 << 16):
    got += len(part)
print(got, flush=True)
"""
    receiver = run_python(network, rank, code)
    return receiver, receiver.stdout.readline().strip()


def send(host: str, port: str) -> str:
    return f"""
import socket
with socket.create_connection(({host!r}, {port}), timeout=30) as connection:
    connection.sendall(bytes({NUM_BYTES}))
"""


def sent_through(network: Network, rank: int, device: str) -> int:
    """Return the bytes that a limited interface sent."""
    command = ["tc", "-n", network.places[rank].namespace, "-s", "qdisc", "show", "dev", device]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "tbf" in shown
    return int(shown.split("Sent ")[1].split()[0])


HOLDER = """
import signal
from bench.link.testbed import slow_link
with slow_link(2, "1gbit") as network:
    print(network.places[0].namespace, flush=True)
    signal.pause()
"""


class TestOnThisMachine:
    pytestmark = needs_root

    @pytest.mark.parametrize("num_ranks", [2, 3])
    def test_ranks_reach_one_another_through_limited_links_alone(self, num_ranks):
        with slow_link(num_ranks, "800mbit") as network:
            last = num_ranks - 1
            receiver, port = receive(network, last, network.places[last].data_host)
            sender = run_python(network, 0, send(network.places[last].data_host, port))
            assert receiver.communicate(timeout=60)[0].strip() == str(NUM_BYTES)
            assert sender.wait(timeout=60) == 0
            assert sent_through(network, 0, "data") > NUM_BYTES
            assert MINE in names()
        assert MINE not in names()

    def test_ranks_reach_this_namespace_at_one_address_beside_the_limited_link(self):
        with slow_link(2, "800mbit") as network:
            receiver, port = receive(network, 1, network.places[1].control_host)
            subprocess.run([sys.executable, "-c", send(network.places[1].control_host, port)], check=True, timeout=60)
            assert receiver.communicate(timeout=60)[0].strip() == str(NUM_BYTES)
            assert sent_through(network, 1, "data") < NUM_BYTES

    def test_a_rate_that_tc_does_not_know_is_told_and_leaves_nothing(self):
        with pytest.raises(ConfigError, match=r"tbf rate fast .* says: .*"), slow_link(2, "fast"):
            pass
        assert MINE not in names()

    def test_an_error_inside_leaves_nothing(self):
        with pytest.raises(RuntimeError, match="inside"), slow_link(3, "1gbit"):
            raise RuntimeError("inside")
        assert MINE not in names()

    def test_a_killed_run_is_removed_by_the_next_cleanup_and_a_living_one_is_not(self):
        with (
            slow_link(2, "1gbit") as mine,
            subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as other,
        ):
            namespace = other.stdout.readline().strip()
            other.send_signal(signal.SIGKILL)
            other.wait()
            assert namespace in names()
            assert namespace in remove_leftovers()
            assert namespace not in names()
            assert mine.places[0].namespace in names()
            assert mine.places[0].root_link in names()


def test_a_user_without_rights_is_told_what_is_needed(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/sbin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="need root"):
        check_machine()


def test_a_machine_without_iproute2_is_told_what_is_missing(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "tc" else f"/sbin/{name}")
    with pytest.raises(ConfigError, match=r"^tc cannot be found: install iproute2"):
        check_machine()
