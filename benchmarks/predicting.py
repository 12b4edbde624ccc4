"""How fast picture files become labels: a folder of them, beside timm's loader and model; and one, from a cold start.

python benchmarks/predicting.py PHOTOS [--pictures 1000] [--rounds 5] [--starts 15] [--quick]

The folder: what `mixer bench predict` measures, Mixer-S/32 in bfloat16, and timm eager and compiled. A cold start:
whole processes, in turns, with a warm disk.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from mlpmixer import processor
from mlpmixer.bench.predicting import bench_predicting
from mlpmixer.bench.turns import in_turns, ratio
from mlpmixer.data.processes import cores
from mlpmixer.weights.shipped import PHOTO

MIXER = str(Path(sys.executable).with_name("mixer"))
BARE = "python -c 'import torch'"
COMMANDS = {
    BARE: [sys.executable, "-c", "import torch"],
    "mixer predict one.jpg": [MIXER, "predict", str(PHOTO)],
    "mixer predict one.jpg --json": [MIXER, "predict", str(PHOTO), "--json"],
}


def folder(photos: Path, pictures: int, rounds: int, quick: bool) -> None:
    rows, left_out = bench_predicting(photos, ("mixer_s32", 32), "bf16", pictures, rounds, quick=quick)
    print(f"{pictures} JPEGs → top 5, mixer_s32, bf16, batches of 32, {rounds} rounds\n")
    print("| system | engine | pictures/s | spread | we are faster by | same first label |\n|---|---|---|---|---|---|")
    for row in rows:
        beside = "– | –"
        if row.ahead is not None:
            middle, first, third = row.ahead
            beside = f"{middle:.2f} ({first:.2f} to {third:.2f}) | {row.alike:.1%}"
        print(f"| {row.system} | {row.engine} | {row.images_per_s:.0f} | {row.spread:.1%} | {beside} |")
    for line in left_out:
        print(line)


def starts(runs: int) -> None:
    def process(command: list[str]) -> Callable[[], object]:
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    times = in_turns({name: process(command) for name, command in COMMANDS.items()}, runs, warm_up=1)
    print(f"\nCold start, {runs} runs\n\n| command | median | spread | times a bare import |\n|---|---|---|---|")
    for name, taken in times.items():
        middle, first, third = ratio(times[BARE], taken)
        print(f"| `{name}` | {taken.median:.2f} s | {taken.spread:.1%} | {middle:.2f} ({first:.2f} to {third:.2f}) |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="without timm compiled, which takes a minute to start")
    given = parser.parse_args()
    print(f"{processor.name()}, {cores()} cores, Python {platform.python_version()}, torch {torch.__version__}\n")
    if given.rounds:
        folder(given.photos, given.pictures, given.rounds, given.quick)
    if given.starts:
        starts(given.starts)


if __name__ == "__main__":
    main()
