from types import SimpleNamespace

import pytest
import torch

from tests.unit.worker.profiler.measuring import CARD
from worker.communicator.local import LocalCommunicator
from worker.profiler.identity import cuda_hardware_name, profile_key


@pytest.fixture
def gpu(monkeypatch):
    """Make up a GPU; return its properties."""
    properties = SimpleNamespace(name="NVIDIA H100", multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return properties


def name(link: str = "peer") -> str:
    return cuda_hardware_name(torch.device("cuda", 0), link)


def test_a_gpu_is_named_with_all_that_its_times_depend_on(gpu):
    assert name().startswith("NVIDIA H100, 132 SMs, driver ")
    assert f"torch {torch.__version__}" in name()
    assert name().endswith("link peer")


def test_a_part_of_a_gpu_and_another_link_are_other_hardware(gpu):
    whole = name()
    assert name("host") != whole
    gpu.multi_processor_count = 66
    assert name() != whole


def test_all_ranks_hardware_and_the_operators_tag_are_part_of_a_profile_s_key(ranks):
    (rank,) = ranks(tp_size=1)

    def key(hardware=("a",), tag="") -> str:
        return profile_key(CARD, rank.plan, communicator=LocalCommunicator(), hardware=hardware, tag=tag)

    assert len({key(), key(("a", "b")), key(("b",)), key(tag="slow link")}) == 4
