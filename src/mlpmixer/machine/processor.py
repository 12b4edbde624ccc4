"""Processor name and instruction sets, as far as the system tells."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def name() -> str:
    """The model and the number of cores."""
    called = _cpuinfo("model name") or platform.processor() or platform.machine()
    return f"{called} ({os.cpu_count()} cores)"


def abilities() -> set[str]:
    """The CPU flags of Linux, such as avx512f; empty on other systems."""
    return {*_cpuinfo("flags").split()}


def _cpuinfo(key: str) -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith(key):
            return line.split(":", 1)[1].strip()
    return ""
