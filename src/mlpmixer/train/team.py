"""The processes that train one model together: one for each device, started by torchrun; or just this one."""

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
from mlpmixer.recipe import Machine


@dataclass(frozen=True)
class Team:
    device: torch.device
    rank: int = 0
    ranks: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, on the CPU."""
        values = values.detach().cpu()
        if self.ranks > 1:
            dist.all_reduce(values)
        return values

    def agree(self, flag: bool) -> bool:
        """Whether any process says so."""
        return bool(self.total(torch.tensor(float(flag)))) if self.ranks > 1 else flag

    def told(self, value: int) -> int:
        """What the first process says."""
        if self.ranks == 1:
            return value
        said = torch.tensor(value)
        dist.broadcast(said, src=0)
        return int(said)

    def wait(self) -> None:
        if self.ranks > 1:
            self.total(torch.zeros(1))


_runs = itertools.count()
_ended: list[dist.ProcessGroup] = []


@atexit.register
def _let_go() -> None:
    """Ends the processes' talk of a run that is over, from here, where torch gives Python's lock away for it.

    DDP and FSDP hold on to it too. Were one of those the last to let go, torch (2.13) would keep the lock while it
    waits for threads that want it: for ever; and after Python's end they would find none, and abort.
    """
    if _ended:
        gc.collect()
        _ended.clear()


@contextmanager
def joined(machine: Machine) -> Iterator[Team]:
    """Joins the processes that torchrun started, if it did."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = device_of(machine.device, local)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team(device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, ranks = next(rendezvous("env://"))
    except ValueError as error:
        raise UsageError(
            f"WORLD_SIZE says that this is one of {os.environ['WORLD_SIZE']} processes, but not how they meet: start "
            "them with torchrun, or unset WORLD_SIZE"
        ) from error
    # A drawer of its own: the next run of these processes, or those that replace them, must not find their addresses.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"run {next(_runs)}, attempt {attempt}, {ranks} processes", store)
    _let_go()
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timedelta(minutes=30))
    assert dist.group.WORLD is not None
    _ended.append(dist.group.WORLD)
    try:
        yield Team(device, rank, ranks)
    finally:
        dist.destroy_process_group()


def device_of(name: str, local: int = 0) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"machine.device is cpu, cuda or auto, not '{name}'")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("this machine, or its torch, has no CUDA; use --machine.device cpu")
    try:
        return torch.device(f"cuda:{local}" if name == "cuda" else name)
    except RuntimeError:
        raise UsageError(f"machine.device is cpu, cuda, cuda:N or auto, not '{name}'") from None
