"""Computing with torch after a fork: in one thread.

The threads that torch computes with do not exist in the child, but torch waits for them, for ever. With one thread it
waits for none, which is also what torch itself does in the workers of its DataLoader.
"""

from __future__ import annotations

import os

import torch

_process: int | None = None  # in which torch has computed for us, and may have threads


def compute_here() -> None:
    """Call before torch computes: a process that was forked after an earlier call is set to one thread."""
    global _process
    here = os.getpid()
    if _process not in (None, here):
        torch.set_num_threads(1)
    _process = here
