"""Cores that may be used, by what the kernel says of this process and its control groups."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from mlpmixer import cli
from mlpmixer.machine.cores import cores, limit_threads, quota

BOUND = cores(Path("/nowhere"))
V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")

# What /proc/self/cgroup says, files below /sys/fs/cgroup with their text, and the cores that are paid for.
TREES: dict[str, tuple[str, dict[str, str], float]] = {
    "no control groups": ("", {}, math.inf),
    "version 2, no limit": ("0::/a\n", {"a/cpu.max": "max 100000\n"}, math.inf),
    "version 2, a share": ("0::/a\n", {"a/cpu.max": "50000 100000\n"}, 0.5),
    "version 2, of a container that sees its own group only": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "version 2, the least of those around": (
        "0::/pods/pod/one\n",
        {
            "pods/cpu.max": "300000 100000\n",
            "pods/pod/cpu.max": "20000 10000\n",
            "pods/pod/one/cpu.max": "max 100000\n",
        },
        2.0,
    ),
    "version 2, another group's": ("0::/a\n", {"a/cpu.max": "max 100000\n", "b/cpu.max": "50000 100000\n"}, math.inf),
    "version 2, without the controller": ("0::/a\n", {"a/memory.max": "max\n"}, math.inf),
    "version 1, no limit": ("3:cpu:/a\n", {f"cpu/a/{V1[0]}": "-1\n", f"cpu/a/{V1[1]}": "100000\n"}, math.inf),
    "version 1, together with another controller": (
        "4:memory:/\n3:cpu,cpuacct:/a:b\n0::/\n",
        {f"cpu,cpuacct/a:b/{V1[0]}": "125000\n", f"cpu,cpuacct/a:b/{V1[1]}": "50000\n"},
        2.5,
    ),
    "version 1, mounted at the group itself": (
        "3:cpu,cpuacct:/docker/0123\n",
        {f"cpu/{V1[0]}": "10000\n", f"cpu/{V1[1]}": "100000\n"},
        0.1,
    ),
    "both versions, the limit in version 1": (
        "3:cpu:/a\n2:cpuset:/\n0::/b\n",
        {f"cpu/a/{V1[0]}": "100000\n", f"cpu/a/{V1[1]}": "100000\n", "unified/b/cpu.pressure": ""},
        1.0,
    ),
    "files that say nothing": ("0::/a\n", {"a/cpu.max": "\n", "cpu.max": "one two\n"}, math.inf),
}


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """The files that the kernel would show."""
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_limits_of_control_groups(tmp_path: Path):
    failures = []
    for number, (name, (groups, files, expected)) in enumerate(TREES.items()):
        root = tree(tmp_path / str(number), groups, files)
        wanted = expected, min(BOUND, max(1, math.ceil(min(expected, BOUND))))
        if (found := (quota(root), cores(root))) != wanted:
            failures.append((name, found, wanted))
    assert not failures


def test_cores_are_whole_at_least_one_and_none_that_it_is_not_bound_to(tmp_path: Path):
    def counted(microseconds: int) -> int:
        return cores(tree(tmp_path, "0::/\n", {"cpu.max": f"{microseconds} 100000\n"}))

    assert [counted(1000), counted(100_000)] == [1, 1]
    assert counted(100_001) == min(2, BOUND)
    assert counted((BOUND + 1) * 100_000) == BOUND
    if hasattr(os, "sched_getaffinity"):
        assert len(os.sched_getaffinity(0)) == BOUND


def test_threads_follow_the_limit_unless_they_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    without, less = (
        tree(tmp_path / "without", "0::/\n", {}),
        tree(tmp_path / "less", "0::/\n", {"cpu.max": "1000 100000\n"}),
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    limit_threads(less)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_threads(without)
    assert "OMP_NUM_THREADS" not in os.environ
    limit_threads(less)
    assert os.environ.pop("OMP_NUM_THREADS") == "1"


def test_commands_follow_the_limit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Before they import torch, as it is asked for a command that does not."""
    said: list[str] = []
    monkeypatch.setattr(cli, "limit_threads", lambda: said.append(capsys.readouterr().out))
    cli.main(["version"])
    assert said == [""]
    assert capsys.readouterr().out.startswith("mixer ")
