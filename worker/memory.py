"""How much memory is free on this machine or in this container, and how many KV blocks a rank takes of it. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from liger.errors import ConfigError
from worker.config import MAX_KV_FRACTION

GIB: Final = 1 << 30
_MIB: Final = 1 << 20
_UNIFIED: Final = ("memory.max", "memory.current", "inactive_file")  # cgroup v2: limit, usage, key in memory.stat
_LEGACY: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")  # cgroup v1


@dataclass(frozen=True, slots=True, kw_only=True)
class KvNeeds:
    """What a rank's keys and values come to."""

    block_bytes: int  # of one block, over all layers that the rank holds
    block_size: int  # tokens of a block
    max_length: int  # tokens of the longest sequence
    num_rows: int  # sequences in work at once

    @property
    def blocks_of_longest(self) -> int:
        """Blocks of one sequence of full length."""
        return -(-self.max_length // self.block_size)

    @property
    def most_blocks(self) -> int:
        """Blocks of as many full-length sequences as can be in work; more could never be used."""
        return self.num_rows * self.blocks_of_longest


def free_bytes(root: Path = Path("/")) -> int:
    """Return the memory that may still be taken: what the machine has left, and every cgroup of this process too.

    Args:
        root: Where `proc` and `sys` are.
    """
    return min([psutil.virtual_memory().available, *_left_in_cgroups(root)])


def blocks_of_share(needs: KvNeeds, *, free: int, fraction: float, num_ranks: int) -> int:
    """Return how many KV blocks to take of the free memory.

    A share too small for one full-length sequence is raised to it, if the memory is there for all ranks of the group.

    Args:
        needs: What a block is.
        free: Free memory, in bytes.
        fraction: Share of it.
        num_ranks: Of the group; they may all be on this machine.

    Raises:
        ConfigError: Not even one block fits.
    """
    share = int(free * fraction) // needs.block_bytes
    longest = needs.blocks_of_longest
    if share < longest and longest * needs.block_bytes * num_ranks <= free * MAX_KV_FRACTION:
        return longest
    if share == 0:
        raise ConfigError(
            f"{fraction:.0%} of {free / _MIB:,.1f} MiB free memory holds no KV block of "
            f"{needs.block_bytes / _MIB:,.1f} MiB; raise --kv-memory-fraction, lower --block-size, or free memory"
        )
    return min(share, needs.most_blocks)


def blocks_of_size(needs: KvNeeds, kv_cache_gib: float) -> int:
    """Return how many KV blocks a cache of so many GiB holds, of those that could ever be used.

    Raises:
        ConfigError: It holds none.
    """
    num_blocks = int(kv_cache_gib * GIB) // needs.block_bytes
    if num_blocks == 0:
        raise ConfigError(
            f"--kv-cache-gib {kv_cache_gib:g} holds no KV block of {needs.block_bytes / _MIB:.2f} MiB; "
            "raise it, lower --block-size, or leave it out to take a share of the free memory"
        )
    return min(num_blocks, needs.most_blocks)


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Yield what is left under the limit of each cgroup that this process is in and that has one."""
    mount = root / "sys/fs/cgroup"
    for controllers, path in _cgroups_of_process(root / "proc/self/cgroup"):
        if controllers == "":
            yield from _left_along(mount, path, *_UNIFIED)
        elif "memory" in controllers.split(","):
            yield from _left_along(mount / "memory", path, *_LEGACY)


def _cgroups_of_process(file: Path) -> Iterator[tuple[str, str]]:
    """Yield controllers (none for cgroup v2) and path of each cgroup; nothing where there are none."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(":", 2)
        if len(fields) == 3:
            yield fields[1], fields[2]


def _left_along(mount: Path, path: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    """Yield what is left in a cgroup and in those above it; each bounds the one below.

    In a container the path may be the host's, which is not there; the mount itself is the container's cgroup then.
    """
    inside = Path(path.lstrip("/"))
    if ".." in inside.parts:  # beyond this container's view
        inside = Path()
    for place in (inside, *inside.parents):
        folder = mount / place
        allowed, used = _number(folder / limit), _number(folder / usage)
        if allowed is not None and used is not None:
            yield max(0, allowed - max(0, used - _statistic(folder / "memory.stat", reclaimable)))


def _number(file: Path) -> int | None:
    """Return the number in a file, None if it is absent or says `max`."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _statistic(file: Path, name: str) -> int:
    """Return a value of memory.stat, 0 if it is not there: pages of files that the kernel gives back when asked."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    values = [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]
    return int(values[0]) if values and values[0].isdecimal() else 0
