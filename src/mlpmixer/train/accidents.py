"""What comes upon a run from outside and reaches it as some error of torch's: in one line, with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from mlpmixer.data.loader import lost_worker
from mlpmixer.errors import MixerError, RunError
from mlpmixer.machine.distributed import Group
from mlpmixer.train.memory import ran_out


@contextmanager
def explained(group: Group) -> Iterator[None]:
    """For a whole run; what is no accident goes through as it is."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if (accident := _accident(error, group)) is not None:
            raise accident from error
        raise


def _accident(error: Exception, group: Group) -> MixerError | None:
    if isinstance(error, RuntimeError) and (lost := lost_worker(error)) is not None:
        return lost
    if ran_out(error):
        return RunError(
            "out of memory outside of a training step; --machine.micro_batch N measures N images at once too, and "
            "the run goes on where it was"
        )
    if group.world_size > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error)):
        return RunError("another process of this run has gone; what it said is the cause, and the same command goes on")
    return None
