"""Checkpoints: what a run needs to go on to the bit, written beside it while it runs.

A checkpoint is a folder in PyTorch's sharded form: each process writes its part, and any number of processes can read
it. It grows under another name and gets its own when every byte is on the disk and summed up, so a kill at any moment
leaves the ones before it whole. One whose sums are wrong is passed over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.utils._pytree import tree_map_only

from mlpmixer.errors import RunError
from mlpmixer.train.team import Team

SUMS = "sums.json"


class Checkpoints:
    """To be entered: on leaving, what is being written is finished first, whatever happened."""

    def __init__(self, folder: Path, team: Team, keep: int):
        self.folder, self.team, self.keep = folder, team, keep
        # Another thread talks over a line of its own.
        self.line: Any = dist.new_group(backend="gloo") if team.ranks > 1 else None
        self.writer: threading.Thread | None = None
        self.trouble: BaseException | None = None
        # One process is what is meant where there is one.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        if team.is_first:
            for left in [*folder.glob(".writing-*"), *folder.glob(".deleting-*")]:
                shutil.rmtree(left, ignore_errors=True)
        team.wait()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def save(self, step: int, state: dict[str, Any]) -> str | None:
        """Copies `state` now, and writes the copy while training goes on. What went wrong with the one before."""
        trouble = self.wait()
        copied = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)
        self.writer = threading.Thread(target=self._write, args=(step, copied), name=f"checkpoint {step}")
        self.writer.start()
        return trouble

    def wait(self) -> str | None:
        """Until the last one is on the disk; what went wrong, if it is not."""
        if self.writer is not None:
            self.writer.join()
            self.writer = None
        trouble, self.trouble = self.trouble, None
        return None if trouble is None else f"cannot write a checkpoint to {self.folder} ({_why(trouble)})"

    def finish(self) -> None:
        if trouble := self.wait():
            raise RunError(f"{trouble}; make room, and the same command goes on from the one before")

    def newest(self) -> int:
        """Its step; 0 if there is none."""
        self.wait()
        return max(self._steps(), default=0)

    def restore(self, state: dict[str, Any]) -> tuple[int, list[str]]:
        """Reads the newest whole checkpoint into the tensors of `state`. Its step, 0 if there is none; and warnings."""
        newest, damaged = self._newest_whole() if self.team.is_first else (0, [])
        newest = self.team.told(newest)
        if newest:
            try:
                load(state, checkpoint_id=self._path(newest), no_dist=self.team.ranks == 1)
            except CheckpointException as error:
                raise RunError(
                    f"{self._path(newest)} is not what this version reads ({_why(error)}); go on with the version that "
                    "wrote it, or choose another folder: --folder"
                ) from error
        return newest, damaged

    def _newest_whole(self) -> tuple[int, list[str]]:
        """Damaged ones lose their names, or they would count among those that are kept."""
        damaged = {}
        for step in sorted(self._steps(), reverse=True):
            fault = _fault(self._path(step))
            if fault is None:
                break
            aside = self.folder / f"damaged-{step:09}"
            shutil.rmtree(aside, ignore_errors=True)
            self._path(step).rename(aside)
            damaged[self._path(step)] = fault
        else:
            step = 0
        instead = f"going on from step {step}" if step else "there is no other: starting anew"
        return step, [f"{path} is damaged ({fault}); {instead}" for path, fault in damaged.items()]

    def _write(self, step: int, state: dict[str, Any]) -> None:
        growing = self.folder / f".writing-{step:09}"
        try:
            writer = FileSystemWriter(growing, single_file_per_rank=True, sync_files=True)
            save(state, storage_writer=writer, process_group=self.line, no_dist=self.team.ranks == 1)
            if self.team.is_first:
                sums = {path.name: _sum(path) for path in sorted(growing.iterdir())}
                with (growing / SUMS).open("w") as file:
                    json.dump(sums, file)
                    file.flush()
                    os.fsync(file.fileno())
                growing.rename(self._path(step))
                for old in sorted(self._steps())[: -self.keep]:
                    self._delete(self._path(old))
        except (Exception, CheckpointException) as error:  # told to the main thread, which knows whom to tell
            self.trouble = error.with_traceback(None)  # which would hold the copy of all weights
            if self.team.is_first:
                shutil.rmtree(growing, ignore_errors=True)

    def _delete(self, path: Path) -> None:
        """Out of sight at once, then at leisure: half a checkpoint never has the name of a whole one."""
        hidden = path.with_name(f".deleting-{path.name}")
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09}"

    def _steps(self) -> list[int]:
        return [int(found[1]) for path in self.folder.iterdir() if (found := re.fullmatch(r"step-(\d+)", path.name))]


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint on the disk."""
    try:
        sums = dict(json.loads((path / SUMS).read_text()))
        for name, expected in sums.items():
            if _sum(path / name) != expected:
                return f"{name} is not as it was written"
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else str(error)
    except (ValueError, TypeError):
        return f"{SUMS} cannot be read"
    return None if sums else f"{SUMS} is empty"


def _why(error: BaseException) -> str:
    """In one line; of an error in several processes, the first one's."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]


def _sum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            total = zlib.crc32(block, total)
    return total
