from pathlib import Path

import pytest

from liger.local_cluster import ClusterSpec, GroupSpec, RankSpec
from liger.local_cluster.gpus import count_gpus


@pytest.mark.parametrize(
    ("visible", "count"), [("0,1,2", 3), ("GPU-3fa", 1), ("", 0), ("-1", 0), ("0,-1,1", 1), ("1, 0", 2)]
)
def test_gpus_are_counted_as_cuda_sees_them(visible, count):
    assert count_gpus({"CUDA_VISIBLE_DEVICES": visible}) == count


def driver(folder: Path, script: str) -> dict[str, str]:
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return {"PATH": f"{folder}:/bin:/usr/bin"}


def test_the_driver_lists_gpus_where_none_are_named(tmp_path):
    listed = "GPU 0: H100 (UUID: GPU-a)\n  MIG 1g.10gb Device 0: (UUID: MIG-b)\nGPU 1: H100 (UUID: GPU-c)"
    assert count_gpus(driver(tmp_path, f"echo '{listed}'")) == 2


@pytest.mark.parametrize("script", ["echo 'GPU 0: H100'; exit 9", "echo 'No devices were found'"])
def test_a_driver_that_finds_none_is_believed(tmp_path, script):
    assert count_gpus(driver(tmp_path, script)) == 0


def test_without_a_driver_there_is_none(tmp_path):
    assert count_gpus({"PATH": str(tmp_path)}) == 0


def devices(spec: ClusterSpec) -> list[str]:
    flags = [command.flags for command in spec.workers("127.0.0.1:1")]
    return [words[words.index("--device") + 1] for words in flags]


def group(name: str, **settings) -> GroupSpec:
    return GroupSpec(model_folder=Path("/models/tiny"), model_name=name, **settings)


def test_gpus_are_shared_out_over_all_groups_and_copies():
    cuda = {"device": "cuda"}
    groups = (group("a", copies=2, options=cuda), group("b", tp_size=2, options=cuda))
    assert devices(ClusterSpec(groups=groups, num_gpus=3)) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]


def test_a_device_that_is_named_stays():
    own = RankSpec(options={"device": "cuda:7"})
    assert devices(ClusterSpec(groups=(group("a", ranks=(own,)),), num_gpus=2)) == ["cuda:7"]
    assert devices(ClusterSpec(groups=(group("a", options={"device": "cpu"}),), num_gpus=2)) == ["cpu"]
    assert devices(ClusterSpec(groups=(group("a", options={"device": "cuda"}),))) == ["cuda"]
