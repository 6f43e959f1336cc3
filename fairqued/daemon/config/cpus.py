"""How many CPUs this process may use: what `processes: auto` stands for."""

import math
import os
from pathlib import Path


def usable_cpus() -> int:
    """Return the number of CPUs, or less where affinity or the quota of a container or unit allows less."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, quota_of(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")) or cpus))


def quota_of(membership: Path, cgroups: Path) -> int | None:
    """Return the CPUs that the quota of one's own cgroup (version 2) comes to, rounded up, None without one."""
    try:
        own = next(line[3:].lstrip("/") for line in membership.read_text().splitlines() if line.startswith("0::"))
        quota, period = (cgroups / own / "cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, StopIteration, ValueError):  # no cgroups, only those of version 1, or "max"
        return None
