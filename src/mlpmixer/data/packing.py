"""Making packed data sets: decode every picture once, and write what `packed` reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mlpmixer import __version__
from mlpmixer.data.dataset import DataSet, Split
from mlpmixer.data.packed import MANIFEST, VERSION
from mlpmixer.data.pictures import pixels
from mlpmixer.data.preprocess import resize, short_side
from mlpmixer.data.processes import cores
from mlpmixer.download import alone
from mlpmixer.errors import DataError, MixerError, UsageError

Shape = Literal["short_side", "stretch"]

CHUNK = 32  # pictures that come from a worker process at once


def pack(
    dataset: DataSet,
    folder: str | os.PathLike[str],
    *,
    size: int | None = None,
    shape: Shape = "short_side",
    policy: Literal["strict", "skip"] = "strict",
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes the data set to a new `folder`, whole or not at all, and returns it.

    `size`: pixels to which the shorter side is reduced, keeping proportions ("short_side"; smaller pictures stay as
    they are), or to which both sides are brought ("stretch"); None keeps all as they are. `policy`: whether a picture
    that cannot be read stops it, or is left out and listed in the manifest. `workers`: processes; None: one a core.
    """
    if size is not None and size < 1:
        raise UsageError(f"size is {size}: must be 1 pixel or more")
    folder = Path(folder).expanduser().absolute()
    shown = progress and sys.stderr.isatty()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder, shown) as growing:
            if folder.exists():
                raise DataError(f"{folder} is there already; choose another name, or delete it")
            shutil.rmtree(growing, ignore_errors=True)  # of a process that was killed
            growing.mkdir()
            try:
                _fill(growing, dataset, size, shape, policy, cores() if workers is None else workers, shown)
                growing.rename(folder)
            finally:
                shutil.rmtree(growing, ignore_errors=True)
    except OSError as error:
        if isinstance(error, MixerError):
            raise
        raise DataError(f"cannot write {folder}: {error.strerror}; choose a place with enough room") from error
    return folder


def _fill(
    folder: Path, dataset: DataSet, size: int | None, shape: Shape, policy: str, workers: int, shown: bool
) -> None:
    written = _Written(folder)
    counts, left_out = {}, []
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        for name, split in dataset.splits.items():
            task = bar.add_task(name, total=len(split))
            kept, sizes = [], []
            with written.open(f"{name}.pixels") as file:
                for chunk in _chunks(split, size, shape, workers):
                    if chunk.broken and policy == "strict":
                        raise DataError(f"{chunk.broken[0]}; mend or remove it, or leave such pictures out")
                    file.write(chunk.values.numpy())
                    kept, sizes, left_out = kept + chunk.kept, sizes + chunk.sizes, left_out + chunk.broken
                    bar.advance(task, len(chunk.kept) + len(chunk.broken))
