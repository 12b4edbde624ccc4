"""What the processor is called and what it can do, as far as the system tells."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def name() -> str:
    called = _said("model name") or platform.processor() or platform.machine()
    return f"{called} ({os.cpu_count()} cores)"


def abilities() -> set[str]:
    """In Linux's words, such as avx512f; nothing where there is no Linux to ask."""
    return {*_said("flags").split()}


def _said(key: str) -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith(key):
            return line.split(":", 1)[1].strip()
    return ""
