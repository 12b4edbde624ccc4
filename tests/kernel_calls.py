"""Calls of the CPU kernels with sizes of all kinds and little memory: each works or raises. Says how many worked.

`python -O tests/kernel_calls.py EXAMPLES`, of each kind.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from mlpmixer.kernels.forward import Forward, Parts
from mlpmixer.kernels.library import library
from mlpmixer.kernels.mixing import channel_mixing, token_mixing
from mlpmixer.kernels.resize import resized
from mlpmixer.kernels.weights import HalfWeights
from mlpmixer.metadata import Kind, LayerPrecision

ROOM = 1 << 29  # bytes of address space

some = st.one_of(st.integers(1, 70), st.sampled_from([0, 1, 16, 32, 48, 64, 96]))
odd = st.sampled_from([-1, 2**26, 2**26 + 1, 2**31 - 1, 2**31, 2**32, 2**32 + 256, 2**63, 2**64 + 8, -(2**31)])
anything = st.one_of(some, some, some, st.integers(-100, 5000), odd)
change = st.integers(0, 12)  # which of the shapes is a wrong one

worked: Counter[str] = Counter()


def tried(kind: str, call: Callable[[], object]) -> None:
    try:
        call()
    except (ValueError, MemoryError, OverflowError, ctypes.ArgumentError):
        pass
    except RuntimeError as error:  # PyTorch's, of its own tensors
        if not any(word in str(error) for word in ("memory", "negative", "Invalid", "overflow")):
            raise
    else:
        worked[kind] += 1


def images(shape: Any, size: Any, window: Any, steps: Any, how: str, inside: bool) -> None:
    image = np.zeros(shape, np.uint8)[:: steps[0], :: steps[1]]
    if inside and min(size) > 0:
        begin = [part % whole for part, whole in zip(window[:2], size, strict=True)]
        room = [whole - first for whole, first in zip(size, begin, strict=True)]
        window = (*begin, *(1 + part % left for part, left in zip(window[2:], room, strict=True)))
    tried("resize", lambda: resized(image, size, window, how))


def shapes_of(hidden: int, wide: int, channels: int, changed: int, other: list[int]) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = [(channels,), (channels,), (hidden, wide), (hidden,), (wide, hidden), (wide,)]
    if changed < len(shapes):
        shapes[changed] = tuple(other[: len(shapes[changed])])
    return shapes


def halves(sizes: Any, other: Any, changed: int, columns: bool, right: bool) -> None:
    images, tokens, channels, hidden = sizes
    if right:
        channels, hidden = (max(32, size // 32 * 32) for size in (channels, hidden))
    shapes = shapes_of(hidden, tokens if columns else channels, channels, changed, other)
    weights = HalfWeights(*(torch.ones(shape, requires_grad=True) for shape in shapes))
    kind = torch.float if changed == 6 else torch.bfloat16
    x = torch.ones(images, tokens, channels, dtype=kind, requires_grad=True)
    scale = torch.ones(images + (changed == 7), dtype=torch.double if changed == 8 else torch.float)
    half = token_mixing if columns else channel_mixing
    tried("mixing", lambda: half(x, weights, scale, gelu="erf").float().sum().backward())


def models(sizes: Any, widths: Any, other: Any, changed: int, right: bool, kind: Kind) -> None:
    (images, down, across, patch), (in_channels, channels, hidden, classes) = sizes, widths
    patch %= 9
    if right:
        channels, hidden = (max(16, size // 16 * 16) for size in (channels, hidden))
        down, across, patch, in_channels = down % 4 + 1, across % 4 + 1, patch + 1, in_channels % 4 + 1

    def call() -> None:
        both = [shapes_of(hidden, wide, channels, changed, other) for wide in (down * across, channels)]
        parts = Parts(
            image=(in_channels, down * patch, across * patch + (changed == 7)),
            patch=patch,
            gelu="tanh",
            stem=torch.ones(channels, in_channels * patch**2),
            stem_bias=torch.ones(channels + (changed == 8)),
            shift=torch.ones(in_channels * patch**2),
            halves=[HalfWeights(*map(torch.ones, shapes)) for shapes in both],
            gamma=torch.ones(channels),
            beta=torch.ones(channels),
            head=torch.ones(classes, channels),
            head_bias=torch.ones(classes + (changed == 9)),
        )
        wide = across * patch + (changed == 10)
        Forward(parts, [LayerPrecision(kind)] * 2, kind)(
            torch.ones(images, in_channels, down * patch, wide, dtype=torch.uint8)
        )

    tried("forward", call)


def products(kind: int, rows: int, depth: int, columns: int, times: int, threads: int) -> None:
    found = library("forward")
    assert isinstance(found, ctypes.CDLL)
    tried("multiply", lambda: found.multiply(kind, rows, depth, columns, times, threads))


DRAWN: dict[Callable[..., None], tuple[st.SearchStrategy[Any], ...]] = {
    images: (
        st.tuples(st.integers(0, 300), st.integers(0, 300), st.sampled_from([3, 3, 3, 1, 4])),
        *(st.tuples(anything, anything), st.tuples(anything, anything, anything, anything)),
        *(st.sampled_from([(1, 1), (2, 1), (1, 2), (-1, 1), (1, -1)]), st.sampled_from(["bilinear", "bicubic"])),
        st.booleans(),
    ),
    halves: (
        st.tuples(some, some, some, some),
        st.tuples(some, some),
        change,
        st.booleans(),
        st.booleans(),
    ),
    models: (
        *(st.tuples(some, some, some, some), st.tuples(some, some, some, some), st.tuples(some, some), change),
        *(st.booleans(), st.sampled_from(["fp32", "bf16", "int8"])),
    ),
    products: (
        st.sampled_from([1, 2, 4]),
        anything,
        anything,
        anything,
        st.integers(-1, 2),
        st.integers(-1, 3),
    ),
}

if __name__ == "__main__":
    torch.set_num_threads(2)
    halves((2, 4, 32, 32), (0, 0), 12, True, True)  # what has its threads and libraries
    products(1, 8, 8, 64, 1, 2)
    images((9, 9, 3), (5, 5), (0, 0, 5, 5), (1, 1), "bilinear", True)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    for call, drawn in DRAWN.items():
        seed(0)(settings(max_examples=int(sys.argv[1]), deadline=None, database=None)(given(*drawn)(call)))()
    print(json.dumps(worked))
