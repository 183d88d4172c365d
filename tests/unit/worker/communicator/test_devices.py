"""Which ways connect ranks on devices, and which of several an exchange takes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from liger.errors import ConfigError, GroupFailedError
from worker.communicator import devices
from worker.communicator.chosen import ChosenCommunicator, Way
from worker.communicator.copy_engine.communicator import CopyEngineCommunicator
from worker.communicator.copy_engine.driver import Driver
from worker.communicator.devices import DeviceConnector, ways_of
from worker.communicator.local import DoneExchange, LocalCommunicator
from worker.communicator.memory import ExchangeMemory
from worker.rendezvous import RendezvousStore

MEMORY = ExchangeMemory(num_slots=1, max_tokens=4, hidden_size=2, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("kind", "nodes", "gpus", "ways"),
    [
        ("auto", "aa", "xy", (Way.COPY_ENGINE, Way.NCCL)),
        ("auto", "ab", "xy", (Way.NCCL,)),
        ("auto", "aa", "xx", (Way.COPY_ENGINE,)),
        ("auto", "a" * 9, "stuvwxyz1", (Way.NCCL,)),
        ("nccl", "aa", "xy", (Way.NCCL,)),
        ("copy-engine", "aa", "xy", (Way.COPY_ENGINE,)),
    ],
)
def test_ways_that_can_connect_the_ranks_are_opened(kind, nodes, gpus, ways):
    assert ways_of(kind, list(nodes), list(gpus)) == ways


@pytest.mark.parametrize(
    ("kind", "nodes", "gpus", "mend"),
    [
        ("nccl", "aa", "xx", "use --communicator copy-engine"),
        ("copy-engine", "ab", "xy", "use --communicator nccl"),
        ("auto", "aab", "xxy", "all be of one node"),
        ("gloo", "aa", "xy", "use auto, nccl or copy-engine"),
    ],
)
def test_what_cannot_connect_the_ranks_is_refused_with_a_mend(kind, nodes, gpus, mend):
    with pytest.raises(ConfigError, match=mend):
        ways_of(kind, list(nodes), list(gpus))


class FakeWay(LocalCommunicator):
    """Notes what goes its way."""

    def __init__(self, **_):
        super().__init__()
        self.sizes, self.ends = [], []

    def all_reduce(self, partial):
        self.sizes.append(partial.numel() * partial.element_size())
        return DoneExchange(partial)

    def abort(self):
        self.ends.append("abort")

    def close(self):
        self.ends.append("close")


class FakeCopies(FakeWay, CopyEngineCommunicator):
    """Passes for copy engines."""

    is_staged = True


def two_ways():
    return {Way.NCCL: FakeWay(), Way.COPY_ENGINE: FakeWay()}


def test_all_reduces_go_as_chosen_by_their_bytes_and_what_runs_beside():
    ways = two_ways()
    chosen = ChosenCommunicator(ways)
    assert chosen.names == ("nccl", "copy-engine")
    chosen.all_reduce(torch.zeros(1))
    chosen.set_choice(lambda num_bytes, is_beside: "copy-engine" if is_beside or num_bytes > 8 else "unknown")
    chosen.all_reduce(torch.zeros(2))
    chosen.all_reduce(torch.zeros(3))
    chosen.is_beside = True
    chosen.all_reduce(torch.zeros(4))
    assert (ways[Way.NCCL].sizes, ways[Way.COPY_ENGINE].sizes) == ([4, 8], [12, 16])


def test_both_ways_are_timed_and_ended_together():
    ways = two_ways()
    chosen = ChosenCommunicator(ways)
    chosen.timed = True
    assert chosen.timed
    assert all(way.timed for way in ways.values())
    chosen.abort()
    chosen.close()
    assert [way.ends for way in ways.values()] == [["abort", "close"]] * 2


@pytest.fixture
def connected(monkeypatch):
    """Connects two ranks, each on a device of its own unless told otherwise."""
    store = RendezvousStore("127.0.0.1")
    host, port = store.endpoint.rsplit(":", 1)

    def connect(kind="auto", **openers):
        monkeypatch.setattr(devices, "_device_name", lambda _: "")

        def stage(rank):
            client = torch.distributed.TCPStore(host, int(port), is_master=False, wait_for_workers=False)
            connector = DeviceConnector(client, kind=kind, limit_s=5.0, memory=MEMORY, **openers)
            return connector.stage("device/0", rank, 2)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(stage, range(2)))

    yield connect, monkeypatch
    store.close()


def opens(kind, opened):
    def opener(_, **options):
        assert options["memory"] is MEMORY
        opened.append(kind())
        return opened[-1]

    return opener


def fails(_, **__):
    raise GroupFailedError("no way through")


def test_ranks_of_one_node_that_share_a_gpu_go_by_copy_engines_alone(connected):
    connect, _ = connected
    stages = connect(open_nccl=fails, open_copies=opens(FakeCopies, []))
    assert [type(stage) for stage in stages] == [FakeCopies] * 2


def test_the_way_through_the_host_comes_before_nccl_if_both_are_open(connected, monkeypatch):
    connect, _ = connected
    monkeypatch.setattr(devices, "ways_of", lambda *_: (Way.COPY_ENGINE, Way.NCCL))
    for is_staged, first in ((True, "copy-engine"), (False, "nccl")):
        monkeypatch.setattr(FakeCopies, "is_staged", is_staged)
        stages = connect(open_nccl=opens(FakeWay, []), open_copies=opens(FakeCopies, []))
        assert [stage.names[0] for stage in stages] == [first] * 2


def test_nccl_is_taken_alone_where_copy_engines_fail_and_ends_what_is_open_if_it_fails(connected, monkeypatch):
    connect, _ = connected
    monkeypatch.setattr(devices, "ways_of", lambda *_: (Way.COPY_ENGINE, Way.NCCL))
    assert [type(stage) for stage in connect(open_nccl=opens(FakeWay, []), open_copies=fails)] == [FakeWay] * 2
    copies = []
    with pytest.raises(GroupFailedError, match="no way through"):
        connect(open_nccl=fails, open_copies=opens(FakeCopies, copies))
    assert [one.ends for one in copies] == [["close"]] * 2


def test_without_a_driver_copy_engines_are_refused():
    with pytest.raises(GroupFailedError, match="CUDA's driver"):
        Driver("libliger-no-such-driver.so")
