"""Free memory as machine and container tell it, and the KV blocks that are taken of it."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liger.errors import ConfigError
from tests.support.rank_group import running_group
from tests.support.tiny_models import MakeModel, model_maker
from worker.config import MAX_KV_FRACTION
from worker.memory import GIB, KvNeeds, blocks_of_share, blocks_of_size, free_bytes

MIB = 1 << 20
AVAILABLE = 1000 * MIB  # what the machine says
NEEDS = KvNeeds(block_bytes=MIB, block_size=16, max_length=100, num_rows=50)  # 7 blocks for the longest, 350 at most


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the place of `proc` and `sys` on a machine with 1000 MiB left."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=AVAILABLE))
    return tmp_path


def member_of(root: Path, *lines: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))


def cgroup(root: Path, path: str, **files: str) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text)


def test_without_cgroups_the_machine_says_what_is_free(root: Path) -> None:
    assert free_bytes(root) == AVAILABLE


def test_a_limit_of_cgroup_v2_bounds_what_is_free(root: Path) -> None:
    member_of(root, "0::/job")
    cgroup(root, "job", max=f"{500 * MIB}\n", current=f"{200 * MIB}\n")
    assert free_bytes(root) == 300 * MIB


def test_cached_files_that_the_kernel_gives_back_are_free(root: Path) -> None:
    member_of(root, "0::/job")
    stat = f"anon 5\ninactive_file {50 * MIB}\nactive_file 7\n"
    cgroup(root, "job", max=f"{500 * MIB}\n", current=f"{200 * MIB}\n", stat=stat)
    assert free_bytes(root) == 350 * MIB


def test_a_cgroup_without_a_limit_leaves_what_the_machine_has(root: Path) -> None:
    member_of(root, "0::/job")
    cgroup(root, "job", max="max\n", current="5\n")
    assert free_bytes(root) == AVAILABLE


def test_a_limit_beyond_the_machine_leaves_what_the_machine_has(root: Path) -> None:
    member_of(root, "4:memory:/job")
    cgroup(root, "memory/job", limit_in_bytes=f"{2**63 - 4096}\n", usage_in_bytes="5\n")
    assert free_bytes(root) == AVAILABLE


def test_a_limit_of_cgroup_v1_bounds_what_is_free(root: Path) -> None:
    member_of(root, "9:name=systemd:/", "4:cpu,memory:/job", "0::/")
    stat = f"inactive_file 1\ntotal_inactive_file {10 * MIB}\n"
    cgroup(root, "memory/job", limit_in_bytes=f"{400 * MIB}\n", usage_in_bytes=f"{100 * MIB}\n", stat=stat)
    assert free_bytes(root) == 310 * MIB


def test_the_tightest_of_nested_cgroups_counts(root: Path) -> None:
    member_of(root, "0::/slice/job")
    cgroup(root, "slice/job", max=f"{500 * MIB}\n", current=f"{100 * MIB}\n")
    cgroup(root, "slice", max=f"{600 * MIB}\n", current=f"{590 * MIB}\n")
    assert free_bytes(root) == 10 * MIB


@pytest.mark.parametrize("path", ["/docker/abc", "/../../docker/abc", "/"])
def test_in_a_container_the_mount_is_its_own_cgroup(root: Path, path: str) -> None:
    member_of(root, f"0::{path}")
    cgroup(root, "", max=f"{300 * MIB}\n", current=f"{100 * MIB}\n")
    assert free_bytes(root) == 200 * MIB


def test_a_cgroup_over_its_limit_has_nothing_left(root: Path) -> None:
    member_of(root, "0::/job")
    cgroup(root, "job", max="100\n", current="200\n")
    assert free_bytes(root) == 0


@pytest.mark.parametrize("line", ["", "nonsense", "0:", "::", "4:memory", "0::"])
def test_lines_that_name_no_cgroup_are_passed_over(root: Path, line: str) -> None:
    member_of(root, line)
    cgroup(root, "", max="nonsense\n", current="\n", stat="inactive_file\ninactive_file x\n")
    assert free_bytes(root) == AVAILABLE


def test_a_share_of_the_free_memory_is_taken() -> None:
    assert blocks_of_share(NEEDS, free=1000 * MIB, fraction=0.25, num_ranks=1) == 250


def test_no_more_is_taken_than_sequences_could_use() -> None:
    assert blocks_of_share(NEEDS, free=10_000 * MIB, fraction=0.5, num_ranks=1) == 350
    assert blocks_of_size(NEEDS, 100.0) == 350


def test_a_small_share_is_raised_to_one_full_sequence() -> None:
    assert blocks_of_share(NEEDS, free=10 * MIB, fraction=0.01, num_ranks=1) == 7


def test_a_share_is_not_raised_beyond_what_all_ranks_find() -> None:
    assert blocks_of_share(NEEDS, free=10 * MIB, fraction=0.1, num_ranks=2) == 1
    assert blocks_of_share(NEEDS, free=20 * MIB, fraction=0.1, num_ranks=2) == 7


def test_room_for_no_block_is_refused_with_the_mend() -> None:
    with pytest.raises(ConfigError, match=r"10% of 5\.0 MiB .* 1\.0 MiB; raise --kv-memory-fraction"):
        blocks_of_share(NEEDS, free=5 * MIB, fraction=0.1, num_ranks=1)
    with pytest.raises(ConfigError, match=r"--kv-cache-gib 0\.0001 holds no KV block"):
        blocks_of_size(NEEDS, 0.0001)


def test_a_size_that_is_given_is_not_raised() -> None:
    assert blocks_of_size(NEEDS, 2 * MIB / GIB) == 2


@given(
    block_bytes=st.integers(1, 1 << 30),
    max_length=st.integers(1, 10_000),
    num_rows=st.integers(1, 300),
    free=st.integers(0, 1 << 40),
    fraction=st.floats(0.001, MAX_KV_FRACTION),
    num_ranks=st.integers(1, 8),
)
def test_blocks_fit_the_free_memory_and_the_sequences(
    block_bytes: int, max_length: int, num_rows: int, free: int, fraction: float, num_ranks: int
) -> None:
    needs = replace(NEEDS, block_bytes=block_bytes, max_length=max_length, num_rows=num_rows)
    try:
        num_blocks = blocks_of_share(needs, free=free, fraction=fraction, num_ranks=num_ranks)
    except ConfigError:
        assert free * fraction < block_bytes
        return
    assert 1 <= num_blocks <= needs.most_blocks
    assert num_blocks * block_bytes <= free * MAX_KV_FRACTION
    assert num_blocks * 16 >= max_length or num_blocks * block_bytes * num_ranks <= free * num_ranks * fraction


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    return model_maker(tmp_path_factory.mktemp("tiny"))


def test_a_rank_measures_and_says_what_it_takes(
    tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = tiny_model("llama")
    monkeypatch.setattr("worker.devices.cpu.free_bytes", lambda: 2 * MIB)
    with caplog.at_level(logging.INFO, "worker.kv_allocation"), running_group(folder, kv_cache_gib=0.0) as group:
        (joined,) = group.joined
    assert 0 < joined.kv_bytes <= 0.1 * 2 * MIB
    assert joined.num_blocks == 2 * MIB // 10 // (joined.kv_bytes // joined.num_blocks)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "worker.kv_allocation"]
    assert f"KV cache of {joined.num_blocks} blocks" in line
    assert "--kv-memory-fraction 0.1" in line


def test_a_rank_without_room_for_keys_says_so(tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = tiny_model("llama")
    monkeypatch.setattr("worker.devices.cpu.free_bytes", lambda: 100)
    with pytest.raises(ConfigError, match="raise --kv-memory-fraction"), running_group(folder, kv_cache_gib=0.0):
        pass
