"""What is behind `mixer bench data`: decoding by itself, small packed images, and what workers hold in memory.

python benchmarks/loading.py PHOTOS

PHOTOS is a data set of JPEGs, such as `clothing-dataset-small` (CC0). All ways are run in turn, round after round, so
that what else the machine does meets all alike. Needs simplejpeg.
"""

from __future__ import annotations

import io
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mlpmixer import data
from mlpmixer.bench.loading import AREA, FULL, core_seconds_an_image, ours, seconds_an_image
from mlpmixer.data import jpeg
from mlpmixer.data.dataset import Split
from mlpmixer.data.images import decode, pixels
from mlpmixer.data.sources.packing import pack
from mlpmixer.recipe import Augment

ROUNDS = 9


def in_turn(ways: dict[str, Callable[[], float]], digits: int = 0) -> dict[str, list[str]]:
    """Median and range of each way."""
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seen[name].append(way())

    def cell(values: list[float]) -> str:
        return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"

    return {name: [cell(values)] for name, values in seen.items()}


def table(head: list[str], rows: dict[str, list[str]]) -> None:
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells + [""] * (len(head) - 1 - len(cells))) + " |", flush=True)


def decoding(photos: list[bytes]) -> None:
    """Milliseconds an image."""

    def by_pillow(photo: bytes) -> np.ndarray:
        quick, jpeg.decoder = jpeg.decoder, lambda: None
        try:
            return pixels(photo)
        finally:
            jpeg.decoder = quick

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


def small(split: Split) -> None:
    """CIFAR's size, CIFAR's way."""
    ways = {
        "pad, crop, mirror": Augment(crop="pad"),
        "and RandAugment (2, 10)": Augment(crop="pad", policy="rand_augment"),
        "and AutoAugment": Augment(crop="pad", policy="auto_augment_cifar10"),
    }
    runs = {name: ours(split, how, size=32) for name, how in ways.items()}
    rates = in_turn({name: lambda run=run: 1 / seconds_an_image(run, 2) for name, run in runs.items()})
    costs = in_turn({name: lambda run=run: 1e6 * core_seconds_an_image(run) for name, run in runs.items()})
    table(
        ["32×32 pixels, packed", "images/s, 2 workers", "µs of one core"],
        {name: rates[name] + costs[name] for name in ways},
    )


def memory(split: Split, epochs: int = 20) -> None:
    """What each worker holds for itself after each epoch."""
    batches = ours(split, Augment(area=AREA))(2)
    held: list[list[float]] = []
    for _ in range(epochs):
        for _ in range(len(split) // FULL.batch):
            next(batches)
        held.append([private_mb(child.pid) for child in multiprocessing.active_children()])
    assert {len(epoch) for epoch in held} == {2}
    rows = {f"{n} epochs of JPEG": [" and ".join(f"{mb:.1f}" for mb in held[n - 1])] for n in (1, 2, 5, 10, 15, epochs)}
    table(["after", "MB of a worker's own"], rows)


def private_mb(process: int | None) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


def main() -> None:
    torch.set_num_threads(1)
    photos = Path(sys.argv[1])
    dataset = data.open(photos)
    print(f"{platform.machine()}, torch {torch.__version__}; median (range) of {ROUNDS}")
    decoding([Path(str(dataset["train"].read(index))).read_bytes() for index in range(0, len(dataset["train"]), 15)])
    with tempfile.TemporaryDirectory() as place:
        small(data.open(pack(dataset, Path(place) / "tiny", size=32, shape="stretch"))["train"])
    memory(dataset["train"])


if __name__ == "__main__":
    main()
