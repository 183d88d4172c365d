"""What the machine was and what else it did while we measured."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTime:
    """Time of all cores since the machine started, in its own ticks."""

    total: int
    stolen: int  # a hypervisor gave it to others
    idle: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts that stand beside the figures."""

    processor: str
    cores: int
    threads_per_rank: int
    steal_percent: float  # of all cores' time during the run
    busy_percent: float  # likewise
    load_before: float  # load average of the minute before the run
    load_after: float  # and at its end


def read_cpu_time(stat: str | None = None) -> CpuTime:
    """Read the machine's time.

    Args:
        stat: Text of /proc/stat; None reads it.
    """
    text = Path("/proc/stat").read_text(encoding="ascii") if stat is None else stat
    values = [int(word) for word in text.splitlines()[0].split()[1:9]]  # user nice system idle iowait irq softirq steal
    return CpuTime(total=sum(values), stolen=values[7], idle=values[3] + values[4])


def describe_machine(begin: CpuTime, end: CpuTime, *, threads_per_rank: int, load_before: float) -> Machine:
    """Put together what is known of the machine and of a run on it."""
    total = max(end.total - begin.total, 1)
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        threads_per_rank=threads_per_rank,
        steal_percent=100 * (end.stolen - begin.stolen) / total,
        busy_percent=100 * (1 - (end.idle - begin.idle) / total),
        load_before=load_before,
        load_after=os.getloadavg()[0],
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
