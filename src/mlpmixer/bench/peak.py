"""Peak memory of a function: of the process on a CPU (where Linux tells it), or of the GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from mlpmixer.machine.allocator import give_back_freed_memory

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # written to clear_refs, the peak starts anew


def measurable() -> bool:
    return STATUS.exists() and CLEAR.exists()


def of(run: Callable[[], object], device: torch.device) -> int:
    """Bytes, in the second of two runs: the first brings what then stays, such as an optimizer's moments."""
    run()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    give_back_freed_memory()
    CLEAR.write_text(FORGET_PEAK)
    run()
    peak = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(peak.split()[1])
