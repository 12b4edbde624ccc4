"""Description of this machine for records of runs, and its matrix-multiplication rate."""

from __future__ import annotations

import platform
import sys
import time
from typing import Any

import numpy
import torch

from mlpmixer.machine import processor
from mlpmixer.machine.distributed import Group
from mlpmixer.version import __version__


def describe_machine(group: Group) -> dict[str, Any]:
    """Versions, processor and processes, as a run writes them to machine.json."""
    return {
        "mlpmixer": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": torch.cuda.get_device_name(group.device) if group.device.type == "cuda" else processor.name(),
        "threads": torch.get_num_threads(),
        "devices": group.world_size,
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in a large matrix product: what a training step is measured against."""
    side = 128
    while True:  # until it is large enough to be timed; a fixed size takes minutes where `dtype` is foreign to a CPU
        a = torch.randn(side, side, device=device).to(dtype)
        seconds = min(_seconds_of_product(a) for _ in range(3))
        if seconds > 0.01 or side == 8192:
            return 2 * side**3 / seconds
        side *= 2


def _seconds_of_product(a: torch.Tensor) -> float:
    start = time.perf_counter()
    (a @ a)[0, 0].item()
    return time.perf_counter() - start
