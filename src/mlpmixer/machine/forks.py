"""What is left of a process that was forked: one thread.

The threads that torch computes with are gone in the child, but torch waits for them, for ever. With one thread it waits
for none, which is also what torch itself arranges in the workers of its DataLoader.
"""

from __future__ import annotations

import os

import torch

_process: int | None = None  # in which torch has computed for us, and may have threads


def compute_here() -> None:
    """To be called before torch computes: in a process that was forked after that, all is done in one thread."""
    global _process
    here = os.getpid()
    if _process not in (None, here):
        torch.set_num_threads(1)
    _process = here
