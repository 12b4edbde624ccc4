"""Errors of torch and the system that end a run, as one line with a way out; above all, when memory runs out."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from mlpmixer.data.loader import lost_worker
from mlpmixer.errors import MixerError, RunError
from mlpmixer.machine.distributed import Group


@contextmanager
def explain_errors(group: Group) -> Iterator[None]:
    """Around a whole run: what torch or the system raises becomes a `MixerError`; any other error passes unchanged."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if (explained := _explain(error, group)) is not None:
            raise explained from error
        raise


def _explain(error: Exception, group: Group) -> MixerError | None:
    if isinstance(error, RuntimeError) and (lost := lost_worker(error)) is not None:
        return lost
    if is_out_of_memory(error):
        return RunError(
            "out of memory outside of a training step; --machine.micro_batch N also validates N images at a time, and "
            "the same command resumes the run"
        )
    if group.world_size > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error)):
        return RunError(
            "another process of this run has ended; its message names the cause, and the same command resumes the run"
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what torch, Python or the system raises when memory runs out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
        return "annot allocate memory" in str(error) or "can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def suggest_micro_batch(images: int, attempt: Callable[[int], object] | None) -> RunError:
    """The error for a step that ran out of memory, with a micro-batch that was tried and fits.

    Args:
        images: Images per forward pass that did not fit.
        attempt: A step with so many images. Halves of halves are tried, each with a quarter more than is suggested:
            what just fits may not the next time, when memory is fragmented otherwise. None: nothing is tried.
    """
    if attempt is None:
        return RunError(f"out of memory with {images} images at once; try --machine.micro_batch {images // 2 or 1}")
    fits = images // 2
    while fits:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(fits + fits // 4)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            fits //= 2
    if not fits:
        return RunError(f"out of memory with {images} images at once, and even with 1; choose a smaller model")
    return RunError(
        f"out of memory with {images} images at once; {fits} fit: --machine.micro_batch {fits} accumulates the same "
        "gradients from smaller parts (the same command resumes the run)"
    )
