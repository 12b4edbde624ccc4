"""Scaling benchmark: speed by the number of patches, the size of the model, and the batch size.

Networks are compared in the same engine, PyTorch's own, since not every network has kernels; Mixers go through ours as
well. The exponent of a straight line through the logarithms is taken over the upper part of the sizes, where a pass no
longer consists of beginnings and ends.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from mlpmixer.bench.interleave import Times, interleaved, seconds_of
from mlpmixer.engines.engine import Engine
from mlpmixer.engines.table import ENGINES, Setup, why_not
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.intervals import of_mean
from mlpmixer.models import create, describe
from mlpmixer.models.measure import Measure, measure

SIDES = (128, 192, 256, 320, 384, 448, 512, 640)  # pixels
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
PATIENCE = 3.0  # seconds that a batch may take; larger ones are not tried


@dataclass(frozen=True)
class Point:
    """`seconds`: of each round. `spread`: half of what lies between the quartiles, as a share."""

    model: str
    engine: str
    precision: str
    side: int
    patches: int
    batch: int
    gmacs: float
    images_per_s: float
    spread: float
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Growth:
    """From `patches` on, cost grows with their number to the power of `counted` (multiply-adds) or `timed`; by the
    rounds, that is sure to be `within` so much, with 95 %."""

    model: str
    engine: str
    patches: int
    counted: float
    timed: float
    within: float


def by_patches(
    names: Sequence[str],
    sides: Sequence[int],
    rounds: int,
    device: torch.device,
    precision: str = "bf16",
    tell: Callable[[str], object] = lambda _line: None,
) -> list[Point]:
    """One image at a time. All that are measured at one side are interleaved."""
    points = []
    for side in sides:
        tell(f"{side} pixels")
        engines = {
            (name, engine.name): engine for name in names for engine in _engines(name, side, 1, device, precision)
        }
        times = interleaved({key: _pass(engine, (side, side), 1) for key, engine in engines.items()}, rounds, warm_up=1)
        for (name, engine), each in times.items():
            points.append(_point(name, engine, precision, side, 1, each))
        del engines
        gc.collect()
    return points


def by_batch(
    names: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    device: torch.device,
    precision: str = "bf16",
    tell: Callable[[str], object] = lambda _line: None,
) -> list[Point]:
    """At each model's usual size. The batches of one model and engine are interleaved."""
    points = []
    for name in names:
        side = describe(name).image_size[0]
        for engine in _engines(name, side, max(batches), device, precision):
            for batch, times in interleaved_batches(engine, (side, side), batches, rounds, tell).items():
                points.append(_point(name, engine.name, precision, side, batch, times))
        gc.collect()
    return points


def interleaved_batches(
    engine: Engine,
    size: tuple[int, int],
    batches: Sequence[int],
    rounds: int,
    tell: Callable[[str], object] = lambda _line: None,
    patience: float = PATIENCE,
) -> dict[int, Times]:
    """The first, and larger ones as long as they fit into memory and, by the time of the one before, into `patience`.
    `size`: height and width of images."""
    passes: dict[int, Callable[[], object]] = {}
    of_an_image = 0.0
    for batch in batches:
        if batch * of_an_image > patience:
            break
        tell(f"{engine.name}, batch {batch}")
        run = _pass(engine, size, batch)
        try:
            of_an_image = min(seconds_of(run) for _ in range(2)) / batch
        except torch.OutOfMemoryError:
            break
        passes[batch] = run
    return interleaved(passes, rounds, warm_up=0)


def growth(points: Sequence[Point]) -> list[Growth]:
    """For each model and engine that was measured with at least four numbers of patches."""
    found = []
    for name, engine in dict.fromkeys((point.model, point.engine) for point in points):
        own = sorted((p for p in points if (p.model, p.engine) == (name, engine)), key=lambda point: point.patches)
        if len(own) < 4:
            continue
        upper = own[len(own) // 2 - 1 :]
        patches = [point.patches for point in upper]
        counted = exponent(patches, [point.gmacs for point in upper])
        timed = exponent(patches, [1 / point.images_per_s for point in upper])
        rounds = zip(*(point.seconds for point in upper), strict=True)
        low, high = of_mean([exponent(patches, seconds) for seconds in rounds])
        found.append(Growth(name, engine, patches[0], counted, timed, (high - low) / 2))
    return found


def best_batches(points: Sequence[Point]) -> list[Point]:
    """Of each model and engine, the batch with the most images a second."""
    keys = dict.fromkeys((point.model, point.engine) for point in points)
    return [max((p for p in points if (p.model, p.engine) == key), key=lambda p: p.images_per_s) for key in keys]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def _engines(name: str, side: int, batch: int, device: torch.device, precision: str) -> list[Engine]:
    model = create(name, image_size=side).eval()
    setup = Setup(model, how := Preprocessing(), precision, batch, device)
    able = [engine for engine, row in ENGINES.items() if (engine == "eager" or row.own) and not why_not(engine, setup)]
    return [Engine(model, how, engine, precision, batch=batch, device=device) for engine in reversed(able)]


def _pass(engine: Engine, size: tuple[int, int], batch: int) -> Callable[[], object]:
    images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
    return lambda: engine(images)


@cache
def _cost(name: str, side: int) -> Measure:
    return measure(name, image_size=side)


def _point(name: str, engine: str, precision: str, side: int, batch: int, times: Times) -> Point:
    cost = _cost(name, side)
    speed = batch / times.median
    return Point(name, engine, precision, side, cost.tokens, batch, cost.gmacs, speed, times.spread, times.seconds)
