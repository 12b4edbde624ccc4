"""How long a command takes to start: whole processes, interleaved, warm disk.

python benchmarks/start.py
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from mlpmixer.bench.interleave import interleaved, ratio
from mlpmixer.machine import processor
from mlpmixer.weights.bundled import PHOTO

MIXER = str(Path(sys.executable).with_name("mixer"))
BARE = "python -c 'import torch'"
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    BARE: [sys.executable, "-c", "import torch"],
    "python -c 'import mlpmixer'": [sys.executable, "-c", "import mlpmixer"],
    "mixer --help": [MIXER, "--help"],
    "mixer models": [MIXER, "models"],
    "mixer models --json": [MIXER, "models", "--json"],
    "mixer predict one.jpg": [MIXER, "predict", str(PHOTO)],
    "mixer predict one.jpg --json": [MIXER, "predict", str(PHOTO), "--json"],
}
RUNS = 15


def process(command: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    times = interleaved({name: process(command) for name, command in COMMANDS.items()}, RUNS, warm_up=1)
    print(f"{processor.name()}, Python {platform.python_version()}, torch {torch.__version__}, {RUNS} runs\n")
    print(f"| command | median | fastest | slowest | times `{BARE}` (quartiles) |\n|---|---|---|---|---|")
    for name, taken in times.items():
        middle, first, third = ratio(times[BARE], taken)
        fastest, slowest = min(taken.seconds), max(taken.seconds)
        print(
            f"| `{name}` | {taken.median:.2f} s | {fastest:.2f} s | {slowest:.2f} s "
            f"| {middle:.2f} ({first:.2f} to {third:.2f}) |"
        )


if __name__ == "__main__":
    main()
