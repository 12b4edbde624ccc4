"""Helpers to read a config off the shapes of arrays that are named as ours."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from mlpmixer.errors import UsageError

Shapes = Mapping[str, Tensor]


def shape(shapes: Shapes, name: str, sides: int) -> tuple[int, ...]:
    """Of the array `name`, which must be there with so many sides; else a KeyError says which is not."""
    if name not in shapes or shapes[name].ndim != sides:
        raise KeyError(name)
    return tuple(shapes[name].shape)


def blocks_in(shapes: Shapes, prefix: str) -> int:
    """How many there are of `prefix`.0, `prefix`.1 and so on; a gap is a KeyError."""
    numbers = {int(name.removeprefix(f"{prefix}.").split(".")[0]) for name in shapes if name.startswith(f"{prefix}.")}
    missing = sorted(set(range(max(numbers, default=0) + 1)) - numbers)
    if missing:
        raise KeyError(f"{prefix}.{missing[0]}")
    return len(numbers)


def classes_in(shapes: Shapes) -> int:
    return shape(shapes, "head.weight", 2)[0] if "head.weight" in shapes else 0


def square(tokens: int, patch: int) -> tuple[int, int]:
    """The image size whose patches are so many tokens."""
    side = math.isqrt(max(tokens, 0))
    if side * side != tokens or tokens == 0:
        raise UsageError(f"{tokens} tokens make no square; give the image size: stored_size=(height, width)")
    return side * patch, side * patch
