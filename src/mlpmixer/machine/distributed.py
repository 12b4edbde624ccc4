"""Process groups: the processes that train one model, one for each device, started by torchrun; or just this one."""

from __future__ import annotations

import atexit
import gc
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from mlpmixer.errors import UsageError
from mlpmixer.machine.devices import device_of


@dataclass(frozen=True)
class Group:
    """This process among all that run the same thing."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, on the CPU."""
        values = values.detach().cpu()
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.all_reduce_sum(torch.tensor(float(flag)))) if self.world_size > 1 else flag

    def broadcast(self, value: int) -> int:
        """The first process's value."""
        if self.world_size == 1:
            return value
        received = torch.tensor(value)
        dist.broadcast(received, src=0)
        return int(received)

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.world_size > 1:
            self.all_reduce_sum(torch.zeros(1))


class _Sum(torch.autograd.Function):
    """The sum over processes. What one process adds to it counts for the losses of all."""

    @staticmethod
    def forward(_, values: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(_, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Sum.forward(_, gradient)


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum over all processes, on their devices and with a gradient."""
    return _Sum.apply(values)  # pyright: ignore[reportReturnType]


_runs = itertools.count()
_ended: list[dist.ProcessGroup] = []


@atexit.register
def _release() -> None:
    """Drops the process groups of runs that are over, here, where torch releases the GIL for it.

    DDP and FSDP keep references too. Were one of those the last to be dropped, torch (2.13) would keep the GIL while it
    waits for threads that want it: for ever; and after Python's end they would find none, and abort.
    """
    if _ended:
        gc.collect()
        _ended.clear()


@contextmanager
def process_group(device_name: str) -> Iterator[Group]:
    """Joins the processes that torchrun started, if it did.

    Args:
        device_name: As `device_of` takes it.

    Raises:
        UsageError: There is no such device, or the processes cannot find each other.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = device_of(device_name, local)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group(device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, world_size = next(rendezvous("env://"))
    except ValueError as error:
        raise UsageError(
            f"WORLD_SIZE says that this is one of {os.environ['WORLD_SIZE']} processes, but not how they connect: "
            "start them with torchrun, or unset WORLD_SIZE"
        ) from error
    # A prefix of its own: the next run of these processes, or those that replace them, must not find their addresses.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"run {next(_runs)}, attempt {attempt}, {world_size} processes", store)
    _release()
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timedelta(minutes=30))
    assert dist.group.WORLD is not None
    _ended.append(dist.group.WORLD)
    try:
        yield Group(device, rank, world_size)
    finally:
        dist.destroy_process_group()
