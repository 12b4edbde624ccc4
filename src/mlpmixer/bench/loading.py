"""Data loading benchmark: training images read and augmented by us and by timm, from image files and packed sets.

Both do the same work with the same processes: decode, Inception crop to 224×224 bilinearly, mirror, and RandAugment
where it is asked for; what comes out are bytes, before they are normalized. Files are read from a warm disk.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mlpmixer import data
from mlpmixer.bench import baselines
from mlpmixer.bench.interleave import interleaved_times, ratio
from mlpmixer.data.augment import Augmentation
from mlpmixer.data.dataset import Split
from mlpmixer.data.loader import train_batches
from mlpmixer.data.sources.folder import Files
from mlpmixer.data.sources.packing import pack
from mlpmixer.data.torchvision_guard import ensure_torchvision
from mlpmixer.errors import UsageError
from mlpmixer.metadata import Preprocessing
from mlpmixer.recipe import Augment

SIZE = 224  # pixels
AREA = (0.08, 1.0)
AUGMENTED = {"crop, mirror": "none", "crop, mirror, RandAugment (2, 10)": "rand_augment"}


@dataclass(frozen=True)
class Amount:
    """How much is read.

    Attributes:
        batch: Images in a batch.
        warm_up: Batches that are not timed, until workers have filled their queues.
        batches: Batches that are.
        alone: Batches of which a single core's time is taken.
    """

    batch: int = 64
    warm_up: int = 8
    batches: int = 36
    alone: int = 4


FULL = Amount()

Run = Callable[[int], Iterator[Tensor]]  # batches of uint8, by so many worker processes


@dataclass(frozen=True)
class LoadingRow:
    """`core_ms`: of one core, an image, in a process without others. `speedup`, `core_speedup`: over timm,
    with the quartiles over rounds."""

    system: str
    engine: str  # what is read: files, packed, …
    augmentation: str
    workers: int
    images_per_s: float
    spread: float
    core_ms: float
    speedup: tuple[float, float, float] | None
    core_speedup: tuple[float, float, float] | None


def bench_loading(
    folder: Path,
    rounds: int,
    workers: int = 2,
    tell: Callable[[str], object] = lambda _line: None,
    amount: Amount = FULL,
) -> tuple[list[LoadingRow], list[str]]:
    """The rows, and who is left out, and why. `folder`: a data set of image files."""
    split = data.open(folder)["train"]
    if not isinstance(split, Files):
        raise UsageError(f"{folder} is no folder of image files, which is what timm reads as well")
    reason = baselines.why_not("timm", torch.device("cpu"))
    there = reason is None
    needed = amount.batch * (amount.warm_up + amount.batches)
    if there and len(split) < needed:
        raise UsageError(f"{folder} has {len(split)} training images; {needed} or more are needed to measure with")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as place:
            tell("packing")
            places = {"files": split, **_packed(folder, Path(place))}
            rows = []
            for name, policy in AUGMENTED.items():
                tell(name)
                how = Augment(area=AREA, policy=policy)  # pyright: ignore[reportArgumentType] (of AUGMENTED)
                ways = {("timm", "files"): timms(split.root, policy, amount.batch)} if there else {}
                ways |= {("mlpmixer", what): ours(each, how, batch_size=amount.batch) for what, each in places.items()}
                rows += _rows(ways, name, rounds, workers, amount)
    finally:
        torch.set_num_threads(threads)
    return rows, [] if there else [f"timm: {reason}"]


def ours(split: Split, how: Augment, size: int = SIZE, batch_size: int = FULL.batch) -> Run:
    augmentation = Augmentation(how, Preprocessing.usual((size, size)))

    def run(workers: int) -> Iterator[Tensor]:
        steps = range(1_000_000)
        for (batch,) in train_batches(split, augmentation, steps=steps, batch_size=batch_size, workers=workers):
            yield batch.images

    return run


def timms(folder: Path, policy: str, batch_size: int = FULL.batch) -> Run:
    """The policy's operations are always done, and to the nearest pixel, as ours are."""
    ensure_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torchvision lacks here
        from timm.data.dataset import ImageDataset
        from timm.data.loader import create_loader

    def run(workers: int) -> Iterator[Tensor]:
        loader: Any = create_loader(
            ImageDataset(str(folder)),
            input_size=(3, SIZE, SIZE),
            batch_size=batch_size,
            is_training=True,
            scale=AREA,
            hflip=0.5,
            color_jitter=None,  # pyright: ignore[reportArgumentType] (0 would still cost)
            auto_augment={"none": None, "rand_augment": "rand-m10-n2"}[policy],
            interpolation="bilinear",
            num_workers=workers,
            persistent_workers=False,
            device=torch.device("cpu"),
        )
        bytes_only = loader.loader
        for transform in bytes_only.dataset.transform.transforms:
            for operation in getattr(transform, "ops", []):
                operation.prob, operation.kwargs["resample"] = 1.0, Image.Resampling.NEAREST
        return (images for images, _ in bytes_only)

    return run


def seconds_an_image(run: Run, workers: int, amount: Amount = FULL) -> float:
    """Once the workers have started and filled their queues."""
    batches = run(workers)
    for batch in itertools.islice(batches, amount.warm_up):
        assert batch.dtype == torch.uint8
    started = time.perf_counter()
    for _ in range(amount.batches):
        next(batches)
    return (time.perf_counter() - started) / (amount.batches * amount.batch)


def core_seconds_an_image(run: Run, amount: Amount = FULL) -> float:
    """Of this process, without others."""
    batches = run(0)
    next(batches)
    started = time.process_time()
    for _ in range(amount.alone):
        next(batches)
    return (time.process_time() - started) / (amount.alone * amount.batch)


def _packed(folder: Path, place: Path) -> dict[str, Split]:
    dataset = data.open(folder)
    options: dict[str, dict[str, Any]] = {"packed": {}, "packed at 256": {"size": 256}}
    return {name: data.open(pack(dataset, place / name, **how))["train"] for name, how in options.items()}


def _rows(
    ways: Mapping[tuple[str, str], Run], augmentation: str, rounds: int, workers: int, amount: Amount
) -> list[LoadingRow]:
    walls = interleaved_times({k: partial(seconds_an_image, run, workers, amount) for k, run in ways.items()}, rounds)
    cores = interleaved_times({k: partial(core_seconds_an_image, run, amount) for k, run in ways.items()}, rounds)
    theirs = ("timm", "files")
    rows = []
    for key in ways:
        compare = key != theirs and theirs in ways
        rows.append(
            LoadingRow(
                *key,
                augmentation,
                workers,
                images_per_s=1 / walls[key].median,
                spread=walls[key].spread,
                core_ms=1000 * statistics.median(cores[key].seconds),
                speedup=ratio(walls[key], walls[theirs]) if compare else None,
                core_speedup=ratio(cores[key], cores[theirs]) if compare else None,
            )
        )
    return rows
