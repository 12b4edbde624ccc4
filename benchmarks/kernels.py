"""Our CPU kernels beside those of another commit, in turns. Ratios count.

python benchmarks/kernels.py COMMIT [--threads 1]

Halves of layers in training, forwards and backwards, and whole answers.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from mlpmixer.bench.interleave import interleaved, ratio
from mlpmixer.bench.systems import Subject
from mlpmixer.engines import kernels
from mlpmixer.kernels import forward, mixing
from mlpmixer.kernels.library import TAKES, Name, library
from mlpmixer.kernels.weights import HalfWeights
from mlpmixer.machine import processor
from mlpmixer.machine.allocator import keep_freed_memory
from mlpmixer.models.mixer import SIZES

ROOT = Path(__file__).parents[1]
ROUNDS = 15
LEARN = (("mixer_b16", 16), ("mixer_s32", 64), ("mixer_nano", 256))
ANSWER = (("mixer_s32", 32), ("mixer_s32", 1), ("mixer_b16", 8), ("mixer_b16", 1))

SAY = "import sys; from mlpmixer.kernels.library import library; print(*(library(name)._name for name in sys.argv[1:]))"

Library = Callable[[Name], ctypes.CDLL]


def of(source: Path) -> Library:
    """What the package below `source` compiles."""
    names: tuple[Name, ...] = ("mixing", "forward")
    told = subprocess.run(
        [sys.executable, "-c", SAY, *names],
        env={**os.environ, "PYTHONPATH": str(source)},
        check=True,
        capture_output=True,
        text=True,
    )
    return {name: loaded(name, path) for name, path in zip(names, told.stdout.split(), strict=True)}.__getitem__


def loaded(name: Name, path: str) -> ctypes.CDLL:
    """What functions of older commits answer is not looked at: they had no answers."""
    found = ctypes.CDLL(path)
    for function, takes in TAKES[name].items():
        getattr(found, function).argtypes = takes
    return found


def of_commit(commit: str) -> Library:
    packed = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True)
    if packed.returncode:
        sys.exit(f"git has no commit {commit} with a folder src")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
            files.extractall(folder, filter="data")
        return of(Path(folder) / "src")


def compare(what: str, libraries: Mapping[str, Library], run: Callable[[], object]) -> None:
    def by(which: Library) -> Callable[[], object]:
        def once() -> object:
            mixing.library = forward.library = which  # pyright: ignore[reportAttributeAccessIssue]
            return run()

        return once

    times = interleaved({name: by(which) for name, which in libraries.items()}, ROUNDS)
    before, now = times.values()
    middle, first, third = ratio(before, now)
    print(
        f"| {what} | {before.median * 1e3:.2f} | {now.median * 1e3:.2f} | {middle:.2f} ({first:.2f} to {third:.2f}) |",
        flush=True,
    )


def learning(name: str, batch: int, libraries: Mapping[str, Library]) -> None:
    config = SIZES[name]
    places = config.grids()[0][0] * config.grids()[0][1]
    x = torch.randn(batch, places, config.channels, dtype=torch.bfloat16, requires_grad=True)

    def half(inputs: int, hidden: int) -> HalfWeights:
        shapes = ((config.channels,), (config.channels,), (hidden, inputs), (hidden,), (inputs, hidden), (inputs,))
        return HalfWeights(*(torch.randn(shape) / shape[-1] ** 0.5 for shape in shapes))

    tokens, channels = half(places, config.token_hidden), half(config.channels, config.channel_hidden)
    for what, run in (
        ("token mixing", lambda: mixing.token_mixing(x, tokens, None, gelu="tanh")),
        ("channel mixing", lambda: mixing.channel_mixing(x, channels, None, gelu="tanh")),
    ):
        compare(f"{name}, {batch}: {what}, forwards", libraries, run)
        y = run()
        towards = torch.randn_like(y)
        compare(
            f"{name}, {batch}: {what}, backwards",
            libraries,
            lambda y=y, towards=towards: torch.autograd.grad(y, x, towards, retain_graph=True),
        )


def answering(name: str, batch: int, libraries: Mapping[str, Library]) -> None:
    subject = Subject(name)
    images = torch.randint(0, 256, (batch, 3, *subject.model.config.image_size), dtype=torch.uint8)
    for kind in ("fp32", "bf16", "int8"):
        network = kernels.forward(subject.model, subject.how, kind, subject.layer_precisions if kind == "int8" else ())
        compare(f"{name}, {batch}: answers in {kind}", libraries, lambda network=network: network(images))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("commit")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    for name in ("mixing", "forward"):
        if isinstance(why := library(name), str):
            sys.exit(f"no kernels here: {why}")
    torch.manual_seed(0)
    libraries = {"before": of_commit(asked.commit), "now": of(ROOT / "src")}
    torch.set_num_threads(asked.threads)
    keep_freed_memory()
    print(
        f"{processor.name()}, {platform.machine()}, torch {torch.__version__}, {asked.threads} threads, {ROUNDS} rounds"
    )
    print(f"\n| | {asked.commit}, ms | now, ms | now takes of the time (quartiles) |\n|---|---|---|---|")
    for name, batch in LEARN:
        learning(name, batch, libraries)
    for name, batch in ANSWER:
        answering(name, batch, libraries)


if __name__ == "__main__":
    main()
