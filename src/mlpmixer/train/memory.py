"""When memory runs out: how many images at once would fit."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable

import torch

from mlpmixer.errors import RunError


def ran_out(error: BaseException) -> bool:
    """Whether this is what torch, Python or the system raises when there is no room."""
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and "annot allocate memory" in str(error))
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def advice(at_once: int, attempt: Callable[[int], object] | None) -> RunError:
    """Tries half as many, and half of that, until `attempt(images)` goes through. None: only says what to try.

    Each with a quarter more than it would advise: what just fits may not the next time, when memory is cut otherwise.
    """
    if attempt is None:
        return RunError(f"out of memory with {at_once} images at once; try --machine.micro_batch {at_once // 2 or 1}")
    fits = at_once // 2
    while fits:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(fits + fits // 4)
            break
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            fits //= 2
    if not fits:
        return RunError(f"out of memory with {at_once} images at once, and even with 1; take a smaller model")
    return RunError(
        f"out of memory with {at_once} images at once; {fits} fit: --machine.micro_batch {fits} learns the same in "
        "smaller parts (the run goes on where it was)"
    )
