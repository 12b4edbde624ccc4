"""Checkpoints: the state that a run is resumed from, bit for bit; written in the background while it runs.

A checkpoint is a folder in PyTorch's sharded format: each process writes its part, and any number of processes can read
it. It is written under another name and renamed when every byte is on the disk and has a checksum, so a kill at any
moment leaves the ones before it whole. One whose checksums do not hold is passed over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save
from torch.utils._pytree import tree_map_only

from mlpmixer import files
from mlpmixer.errors import RunError
from mlpmixer.machine.distributed import Group
from mlpmixer.text import first_line
from mlpmixer.train.checkpoint_reader import read_into

SUMS = "sums.json"


class Checkpoints:
    """A context manager: at the end, what is being written is finished first, whatever happened.

    Args:
        folder: Where they are.
        group: The processes that write them.
        keep: How many are kept.
    """

    def __init__(self, folder: Path, group: Group, keep: int):
        self.folder, self.group, self.keep = folder, group, keep
        # The thread that writes needs a process group of its own.
        self.writers: Any = dist.new_group(backend="gloo") if group.world_size > 1 else None
        self.thread: threading.Thread | None = None
        self.trouble: BaseException | None = None
        # One process is what is meant where there is one.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        if group.is_main:
            for left in [*folder.glob(".writing-*"), *folder.glob(".deleting-*")]:
                _remove(left)
        group.barrier()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def save(self, step: int, state: dict[str, Any]) -> str | None:
        """Copies `state`, and writes the copy while training continues. Returns what went wrong with the one before."""
        trouble = self.wait()
        copied = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)
        self.thread = threading.Thread(target=self._write, args=(step, copied), name=f"checkpoint {step}")
        self.thread.start()
        return trouble

    def wait(self) -> str | None:
        """Waits until the last one is on the disk. Returns what went wrong, if it is not."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        trouble, self.trouble = self.trouble, None
        return None if trouble is None else f"cannot write a checkpoint to {self.folder} ({_why(trouble)})"

    def finish(self) -> None:
        """The same, but raises what went wrong."""
        if trouble := self.wait():
            raise RunError(f"{trouble}; make room, and the same command resumes from the one before")

    def newest(self) -> int:
        """The step of the newest one; 0 if there is none."""
        self.wait()
        return max(self._steps(), default=0)

    def restore(self, state: dict[str, Any]) -> tuple[int, list[str]]:
        """Reads the newest whole checkpoint into the tensors of `state`.

        Returns:
            Its step, 0 if there is none; and warnings about damaged ones.
        """
        tensors = tensors_in(state)
        newest, damaged = self._newest_whole(_most(tensors)) if self.group.is_main else (0, [])
        newest = self.group.broadcast(newest)
        if newest:
            try:
                read_into(tensors, self._path(newest))
            except (OSError, ValueError) as error:
                raise RunError(
                    f"{self._path(newest)} is not what this version reads ({_why(error)}); resume with the version "
                    "that wrote it, or choose another folder: --folder"
                ) from error
        return newest, damaged

    def _newest_whole(self, most: int) -> tuple[int, list[str]]:
        """Damaged ones are renamed, or they would count among those that are kept. `most`: bytes of one."""
        damaged = {}
        for step in sorted(self._steps(), reverse=True):
            fault = _fault(self._path(step), most)
            if fault is None:
                break
            aside = self.folder / f"damaged-{step:09}"
            _remove(aside)
            self._path(step).rename(aside)
            damaged[self._path(step)] = fault
        else:
            step = 0
        instead = f"resuming from step {step}" if step else "there is no other: starting anew"
        return step, [f"{path} is damaged ({fault}); {instead}" for path, fault in damaged.items()]

    def _write(self, step: int, state: dict[str, Any]) -> None:
        growing = self.folder / f".writing-{step:09}"
        try:
            writer = FileSystemWriter(growing, single_file_per_rank=True, sync_files=True)
            save(state, storage_writer=writer, process_group=self.writers, no_dist=self.group.world_size == 1)
            if self.group.is_main:
                sums = {}
                for path in sorted(growing.iterdir()):
                    with path.open("rb") as part:
                        sums[path.name] = _sum(part)
                with (growing / SUMS).open("w") as file:
                    json.dump(sums, file)
                    file.flush()
                    os.fsync(file.fileno())
                growing.rename(self._path(step))
                for old in sorted(self._steps())[: -self.keep]:
                    self._delete(self._path(old))
        except (Exception, CheckpointException) as error:  # reported by the main thread
            self.trouble = error.with_traceback(None)  # which would hold the copy of all weights
            if self.group.is_main:
                shutil.rmtree(growing, ignore_errors=True)

    def _delete(self, path: Path) -> None:
        """Out of sight at once, then at leisure: half a checkpoint never has the name of a whole one."""
        hidden = path.with_name(f".deleting-{path.name}")
        path.rename(hidden)
        _remove(hidden)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09}"

    def _steps(self) -> list[int]:
        found = [re.fullmatch("step-([0-9]{9,15})", path.name) for path in self.folder.iterdir()]
        return [int(step[1]) for step in found if step and step[0] == self._path(int(step[1])).name]


def tensors_in(state: Mapping[str, Any], above: str = "") -> dict[str, Tensor]:
    """The tensors of nested dictionaries, by names such as "model.head.bias". The rest (the groups of an optimizer)
    follows from the recipe and the step."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            found[above + name] = value
        elif isinstance(value, Mapping):
            found |= tensors_in(value, f"{above}{name}.")
    return found


def _most(tensors: Mapping[str, Tensor]) -> int:
    """Bytes that no checkpoint of these has, with all that is written around them."""
    return (1 << 30) + 4 * sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _fault(path: Path, most: int) -> str | None:
    """What is wrong with a checkpoint on the disk."""
    try:
        sums = dict(json.loads(files.read_text(files.below(path.parent, path.name, SUMS), follow=False)))
        for name, expected in sums.items():
            if Path(name).name != name:
                return f"{SUMS} names a file elsewhere"
            with files.open_regular(files.below(path, name), follow=False) as file:
                most -= os.fstat(file.fileno()).st_size
                if most < 0:
                    return "it is far larger than it can be"
                if _sum(file) != expected:
                    return f"{name} is not as it was written"
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else str(error)
    except (ValueError, TypeError, RecursionError):
        return f"{SUMS} cannot be read"
    return None if sums else f"{SUMS} is empty"


def _remove(path: Path) -> None:
    """As well as it goes; of a link, the link."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _why(error: BaseException) -> str:
    """In one line; of an error in several processes, the first one's."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return getattr(error, "strerror", None) or first_line(error)


def _sum(file: BinaryIO) -> int:
    total = 0
    while block := file.read(1 << 22):
        total = zlib.crc32(block, total)
    return total
