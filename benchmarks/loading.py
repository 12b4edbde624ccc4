"""Reading and augmenting pictures: ours beside timm's, from JPEG files and from packed sets. Ratios count.

python benchmarks/loading.py PHOTOS

PHOTOS is a data set of JPEGs with 3,000 pictures or more in train/, such as `clothing-dataset-small` (CC0). All ways
are run in turn, round after round, so that what else the machine does meets all alike. Needs timm and simplejpeg.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mlpmixer import data
from mlpmixer.data import jpeg
from mlpmixer.data.augment import Augmentation
from mlpmixer.data.dataset import Split
from mlpmixer.data.loader import train_batches
from mlpmixer.data.pictures import decode, pixels
from mlpmixer.data.sources.packing import pack
from mlpmixer.data.torchvision_guard import ensure_torchvision
from mlpmixer.recipe import Augment

ROUNDS = 9
BATCH = 64
BATCHES = 36  # that are timed, after some that are not
SIZE = 224  # pixels
AREA = (0.08, 1.0)

Run = Callable[[int], Iterator[Tensor]]  # batches of uint8, by so many worker processes


def ours(split: Split, how: Augment, size: int = SIZE) -> Run:
    augmentation = Augmentation(how, (size, size))

    def run(workers: int) -> Iterator[Tensor]:
        steps = range(1_000_000)
        for (batch,) in train_batches(split, augmentation, steps=steps, batch_size=BATCH, workers=workers):
            yield batch.images

    return run


def timms(folder: Path, policy: str | None) -> Run:
    """The same work: bytes, before they are normalised; a policy's operations always done, to the nearest pixel."""
    from timm.data.dataset import ImageDataset
    from timm.data.loader import create_loader

    def run(workers: int) -> Iterator[Tensor]:
        loader: Any = create_loader(
            ImageDataset(str(folder)),
            input_size=(3, SIZE, SIZE),
            batch_size=BATCH,
            is_training=True,
            scale=AREA,
            hflip=0.5,
            color_jitter=None,  # pyright: ignore[reportArgumentType] (0 would still cost)
            auto_augment=policy,
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


def pictures_per_second(run: Run, workers: int = 2) -> float:
    """Once the workers have started and filled their queues."""
    batches = run(workers)
    for batch in itertools.islice(batches, 8):
        assert batch.dtype == torch.uint8
    started = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return BATCHES * BATCH / (time.perf_counter() - started)


def milliseconds_of_one_core(run: Run) -> float:
    """CPU time a picture, without other processes."""
    batches = run(0)
    next(batches)
    started = time.process_time()
    for _ in range(4):
        next(batches)
    return 1e3 * (time.process_time() - started) / (4 * BATCH)


def in_turn(
    ways: dict[str, Callable[[], float]], against: dict[str, str] | None = None, digits: int = 0
) -> dict[str, list[str]]:
    """Median and range of each way; and, where `against` names another, of their ratios round by round."""
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seen[name].append(way())

    def cell(values: list[float], digits: int) -> str:
        return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"

    rows = {name: [cell(values, digits)] for name, values in seen.items()}
    for name, other in (against or {}).items():
        rows[name].append(cell([a / b for a, b in zip(seen[name], seen[other], strict=True)], 2))
    return rows


def table(head: list[str], rows: dict[str, list[str]]) -> None:
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells + [""] * (len(head) - 1 - len(cells))) + " |", flush=True)


def decoding(photos: list[bytes]) -> None:
    """Milliseconds a picture."""

    def by_pillow(photo: bytes) -> np.ndarray:
        quick, jpeg._simplejpeg = jpeg._simplejpeg, lambda: None
        try:
            return pixels(photo)
        finally:
            jpeg._simplejpeg = quick

    def timed(way: Callable[[bytes], object], files: list[bytes]) -> float:
        started = time.process_time()
        for file in files:
            way(file)
        return 1e3 * (time.process_time() - started) / len(files)

    large = [enlarged(photo) for photo in photos[:5]]
    for files, what in ((photos[:200], "as they are"), (large, "at 3000×2250")):
        assert all(np.array_equal(pixels(file), by_pillow(file)) for file in files)
        ways = {"Pillow, image": decode, "Pillow, array": by_pillow, "simplejpeg, array": pixels}
        rows = in_turn({name: lambda way=way, files=files: timed(way, files) for name, way in ways.items()}, digits=2)
        table([f"decoding, photos {what}", "ms of one core"], rows)


def enlarged(photo: bytes) -> bytes:
    """As a camera would have it: large, with noise."""
    wide = np.asarray(decode(photo).resize((3000, 2250), Image.Resampling.BICUBIC)).astype(float)
    noise = np.random.default_rng(0).normal(0, 6, (2250, 3000, 1))
    out = io.BytesIO()
    Image.fromarray((wide + noise).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def loading(folder: Path, places: dict[str, Split], policy: bool) -> None:
    how = Augment(area=AREA, policy="rand_augment" if policy else "none")
    ways: dict[str, Run] = {"timm, JPEG": timms(folder, "rand-m10-n2" if policy else None)}
    ways |= {f"ours, {name}": ours(split, how) for name, split in places.items()}
    against = {name: "timm, JPEG" for name in ways if name != "timm, JPEG"}
    rates = in_turn({name: lambda run=run: pictures_per_second(run) for name, run in ways.items()}, against)
    inverse = in_turn(
        {name: lambda run=run: 1 / milliseconds_of_one_core(run) for name, run in ways.items()}, against, digits=2
    )
    what = "Inception crop, mirror" + (", RandAugment (2, 10)" if policy else "")
    table(
        [what, "pictures/s, 2 workers", "× timm", "pictures/ms of one core", "× timm"],
        {name: [*rates[name], *([""] if name not in against else []), *inverse[name]] for name in ways},
    )


def small(split: Split) -> None:
    """CIFAR's size, CIFAR's way."""
    ways = {
        "pad, crop, mirror": Augment(crop="pad"),
        "and RandAugment (2, 10)": Augment(crop="pad", policy="rand_augment"),
        "and AutoAugment": Augment(crop="pad", policy="auto_augment_cifar10"),
    }
    runs = {name: ours(split, how, size=32) for name, how in ways.items()}
    rates = in_turn({name: lambda run=run: pictures_per_second(run) for name, run in runs.items()})
    costs = in_turn({name: lambda run=run: 1e3 * milliseconds_of_one_core(run) for name, run in runs.items()})
    table(
        ["32×32 pixels, packed", "pictures/s, 2 workers", "µs of one core"],
        {name: rates[name] + costs[name] for name in ways},
    )


def memory(split: Split, epochs: int = 20) -> None:
    """What each worker holds for itself after each epoch."""
    batches = ours(split, Augment(area=AREA))(2)
    held: list[list[float]] = []
    for _ in range(epochs):
        for _ in range(len(split) // BATCH):
            next(batches)
        held.append([private_mb(child.pid) for child in multiprocessing.active_children()])
    assert {len(epoch) for epoch in held} == {2}
    rows = {f"{n} epochs of JPEG": [" and ".join(f"{mb:.1f}" for mb in held[n - 1])] for n in (1, 2, 5, 10, 15, epochs)}
    table(["after", "MB of a worker's own"], rows)


def private_mb(process: int | None) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


def main() -> None:
    warnings.simplefilter("ignore")  # timm's, of what torchvision lacks here
    torch.set_num_threads(1)
    ensure_torchvision()
    photos = Path(sys.argv[1])
    dataset = data.open(photos)
    print(f"{platform.machine()}, torch {torch.__version__}; median (range) of {ROUNDS}")
    decoding([Path(str(dataset["train"].read(index))).read_bytes() for index in range(0, len(dataset["train"]), 15)])
    with tempfile.TemporaryDirectory() as place:
        sets = {"packed": {}, "packed at 256": {"size": 256}, "packed at 32": {"size": 32, "shape": "stretch"}}
        packed = {
            name: data.open(pack(dataset, Path(place) / name, **options))["train"] for name, options in sets.items()
        }
        tiny = packed.pop("packed at 32")
        for policy in (False, True):
            loading(photos / "train", {"JPEG": dataset["train"], **packed}, policy)
        small(tiny)
        memory(dataset["train"])


if __name__ == "__main__":
    main()
