"""Roofline of a machine: its peak rates of matrix products, in each precision, and of copying.

Each peak is the best of several ways, since no library is the best everywhere. They are interleaved with the systems
that are compared with them, so that a processor which slows down lowers both.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from mlpmixer.bench.interleave import Times, seconds_of
from mlpmixer.kernels.forward import NUMBERS
from mlpmixer.kernels.library import library
from mlpmixer.machine.devices import DTYPES

# Rows, words of depth and columns of products that stay in a core's cache; which is best depends on its size.
TABLES = ((12, 512, 64), (12, 2048, 64), (48, 512, 512))


@dataclass(frozen=True)
class Effort:
    """How long measurements take.

    Attributes:
        run_seconds: Of a system's run, at least; so many batches follow each other in it.
        peak_seconds: Of each way to reach a peak, about.
        sides: Of large products, by kind of device.
        copied: Bytes; no cache holds them.
    """

    run_seconds: float = 0.1
    peak_seconds: float = 0.05
    sides: Mapping[str, int] = field(default_factory=lambda: {"cpu": 2048, "cuda": 8192})
    copied: int = 1 << 28


FULL = Effort()


@dataclass(frozen=True)
class Way:
    """`work`: operations, or bytes that are read and written, of one run."""

    name: str
    work: float
    run: Callable[[], object]


def products(precision: str, device: torch.device, effort: Effort = FULL) -> list[Way]:
    """Ways to multiply in numbers of this precision, each long enough to be timed."""
    found = [*_large(precision, effort.sides[device.type], device)]
    if device.type == "cpu" and isinstance(kernels := library("forward"), ctypes.CDLL):
        found += [_in_cache(kernels, precision, *sizes) for sizes in TABLES]
    return [_long_enough(way, effort) for way in found]


def copies(device: torch.device, effort: Effort = FULL) -> list[Way]:
    taken = torch.ones(effort.copied // 4, device=device)
    put = torch.empty_like(taken)
    return [_long_enough(Way("PyTorch's copy", 2.0 * effort.copied, partial(_copy, put, taken)), effort)]


def best_by_round(ways: Sequence[Way], times: Mapping[str, Times]) -> list[float]:
    """Operations, or bytes, a second: of the best way in each round."""
    return [max(way.work / taken for way, taken in zip(ways, each, strict=True)) for each in _rounds(ways, times)]


def share(work: float, times: Times, most: Sequence[float]) -> float:
    """Of what was possible in the same round: the median over rounds."""
    return statistics.median(work / taken / rate for taken, rate in zip(times.seconds, most, strict=True))


def measured(ways: Sequence[Way], rounds: int) -> float:
    """By itself: the median over rounds of the best."""
    times = {way.name: Times(tuple(seconds_of(way.run) for _ in range(rounds))) for way in ways}
    return statistics.median(best_by_round(ways, times))


def _rounds(ways: Sequence[Way], times: Mapping[str, Times]) -> list[tuple[float, ...]]:
    return [*zip(*(times[way.name].seconds for way in ways), strict=True)]


def _large(precision: str, side: int, device: torch.device) -> list[Way]:
    """Products of large tables by PyTorch: its own, and by oneDNN with weights that are packed beforehand, which is
    much faster in float32 on some processors."""
    if precision == "int8":
        a, b = (torch.ones(side, side, dtype=torch.int8, device=device) for _ in range(2))
        own = Way("PyTorch's product", 2.0 * side**3, lambda: _done(torch._int_mm(a, b)))  # pyright: ignore[reportPrivateImportUsage]
        return [own] if device.type == "cuda" else []  # on CPUs it is slow
    a = torch.randn(side, side, device=device).to(DTYPES[precision])
    ways = [Way("PyTorch's product", 2.0 * side**3, lambda: _done(a @ a))]
    if device.type == "cpu":
        # PyTorch's compiler calls these; they may be called otherwise some day, and then they are not a way.
        with contextlib.suppress(AttributeError, RuntimeError, TypeError):
            packed = torch.ops.mkldnn._reorder_linear_weight(a, side)
            run = partial(torch.ops.mkldnn._linear_pointwise, a, packed, None, "none", [], "")
            run()
            ways.append(Way("oneDNN's product", 2.0 * side**3, run))
    return ways


def _in_cache(kernels: ctypes.CDLL, precision: str, rows: int, words: int, columns: int) -> Way:
    kind = NUMBERS[precision]  # pyright: ignore[reportArgumentType] (one of its keys)
    depth, threads, times = kind * words, torch.get_num_threads(), 64
    return Way(
        f"our product, {rows}×{words}×{columns}",
        2.0 * rows * depth * columns * threads * times,
        partial(kernels.multiply, kind, rows, depth, columns, times, threads),
    )


def _long_enough(way: Way, effort: Effort) -> Way:
    """The same, so many times that it takes long enough."""
    times = max(1, math.ceil(effort.peak_seconds / min(seconds_of(way.run) for _ in range(3))))

    def run() -> None:
        for _ in range(times):
            way.run()

    return Way(way.name, way.work * times, run)


def _copy(put: Tensor, taken: Tensor) -> None:
    _done(put.copy_(taken))


def _done(found: Tensor) -> None:
    if found.is_cuda:
        torch.cuda.synchronize()
