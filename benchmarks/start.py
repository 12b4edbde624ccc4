"""How long a command takes to start: whole processes, interleaved, warm disk.

python benchmarks/start.py
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

MIXER = str(Path(sys.executable).with_name("mixer"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    "python -c 'import mlpmixer'": [sys.executable, "-c", "import mlpmixer"],
    "mixer --help": [MIXER, "--help"],
    "mixer models": [MIXER, "models"],
    "mixer models --json": [MIXER, "models", "--json"],
}
RUNS = 15


def main() -> None:
    walls: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(RUNS + 1):  # the first round warms the disk cache and does not count
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if run:
                walls[name].append(time.perf_counter() - started)
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, {RUNS} runs\n")
    print("| command | median | fastest | slowest |\n|---|---|---|---|")
    for name, seconds in walls.items():
        print(f"| `{name}` | {statistics.median(seconds):.2f} s | {min(seconds):.2f} s | {max(seconds):.2f} s |")


if __name__ == "__main__":
    main()
