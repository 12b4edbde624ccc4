"""Cores that this process may use: those that it is bound to, and those that its share of processor time pays for.

A container is usually given time rather than cores. With a limit of 1.5 it sees all cores of its machine, and stops
for the rest of each period once its threads have used 1.5 of it together: more threads than that only wait.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

ROOT = Path("/")

# What has the limit of a control group, as microseconds and of how many: in version 2, and in version 1.
FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def cores(root: Path = ROOT) -> int:
    """The number of cores that this process may use; a part of one counts as one.

    Args:
        root: Where proc and sys are.
    """
    return max(1, min(_bound(), math.ceil(min(quota(root), _bound()))))


def quota(root: Path = ROOT) -> float:
    """Cores whose time the control groups of this process allow it; infinite where none of them has a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return math.inf
    found = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)  # of version 2: no controllers
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (controllers, "cpu" if controllers else "unified"):
            top = root / "sys/fs/cgroup" / mount
            group = top / path.lstrip("/")
            # Within a container the mount may begin at its own group, of which the path still has the name outside.
            found += [_limit(each) for each in (group, *group.parents) if each.is_relative_to(top)]
    return min(found)


def limit_threads(root: Path = ROOT) -> None:
    """Called before torch is imported: it begins no more threads than there are cores, nor do processes begun by this.

    `OMP_NUM_THREADS` is left as it is where it is set.
    """
    if quota(root) < _bound():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores(root)))


def _bound() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limit(group: Path) -> float:
    for names in FILES:
        try:
            amount, period = (int(word) for name in names for word in (group / name).read_text().split())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        return amount / period if amount > 0 else math.inf
    return math.inf
