from types import SimpleNamespace

import pytest
import torch

from tests.unit.worker.profiler.measuring import CARD
from worker.communicator.chosen import ChosenCommunicator, Way
from worker.communicator.copy_engine.communicator import CopyEngineCommunicator
from worker.communicator.local import LocalCommunicator
from worker.communicator.nccl import NcclCommunicator
from worker.profiler.identity import hardware_name, profile_key


@pytest.fixture
def gpu(monkeypatch):
    """Make up a GPU; return its properties."""
    properties = SimpleNamespace(name="NVIDIA H100", multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return properties


def name() -> str:
    return hardware_name("cuda:0", torch.device("cuda", 0))


def test_a_gpu_is_named_with_all_that_its_times_depend_on(gpu):
    assert name().startswith("NVIDIA H100, 132 SMs, driver ")
    assert f"torch {torch.__version__}" in name()


def test_a_part_of_a_gpu_is_other_hardware(gpu):
    whole = name()
    gpu.multi_processor_count = 66
    assert name() != whole


def test_a_processor_is_named_with_what_is_used_of_it():
    assert hardware_name("cpu (2 threads)").endswith(", cpu (2 threads)")
    assert hardware_name("cpu (2 threads)", torch.device("cpu")) == hardware_name("cpu (2 threads)")


def test_all_ranks_hardware_and_the_operators_tag_are_part_of_a_profile_s_key(ranks):
    (rank,) = ranks(tp_size=1)

    def key(hardware=("a",), tag="") -> str:
        return profile_key(CARD, rank.plan, communicator=LocalCommunicator(), hardware=hardware, tag=tag)

    assert len({key(), key(("a", "b")), key(("b",)), key(tag="slow link")}) == 4


def copies(*, is_staged: bool) -> CopyEngineCommunicator:
    communicator = CopyEngineCommunicator.__new__(CopyEngineCommunicator)
    communicator.rank, communicator.world_size, communicator.is_staged = 0, 2, is_staged
    return communicator


def test_how_ranks_exchange_and_over_what_link_is_part_of_a_profile_s_key(ranks, monkeypatch):
    (rank,) = ranks(tp_size=1)
    nccl = NcclCommunicator.__new__(NcclCommunicator)

    def key(communicator) -> str:
        return profile_key(CARD, rank.plan, communicator=communicator, hardware=("a",), tag="")

    def chosen(*, is_staged: bool) -> ChosenCommunicator:
        ways = {Way.COPY_ENGINE: copies(is_staged=is_staged), Way.NCCL: nccl}
        return ChosenCommunicator(ways)

    monkeypatch.delenv("NCCL_P2P_DISABLE", raising=False)
    found = [key(each) for each in (nccl, copies(is_staged=True), copies(is_staged=False))]
    found += [key(chosen(is_staged=is_staged)) for is_staged in (True, False)]
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    assert len({*found, key(nccl)}) == 6
