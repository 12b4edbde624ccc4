"""What a file of arrays claims, and the bounds within which a claim is believed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlpmixer.errors import BrokenFile, MixerError
from mlpmixer.text import first_line

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
COUNTS = {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}  # beside weights of others
COUNTER = ".num_batches_tracked"  # of a batch normalization of PyTorch; what a model computes does not depend on it
MAX_HEADER = 4_000_000  # bytes; the largest model here needs under 300,000, and its class names a million
MAX_ARRAYS = 5_000  # the largest has under 2,000
MAX_NAME = 100  # letters; the longest has 82
MAX_SIDES = 8  # of an array; the most are 4
MAX_EXPANSION = 20  # a compressed file may claim this many times its size; real weights compress by a tenth


@dataclass(frozen=True)
class ArrayFile:
    """What a file claims to hold (as meta tensors, without data), and a way to read it."""

    path: Path
    kind: str
    claims: dict[str, Tensor]
    metadata: dict[str, str]
    load: Callable[[], dict[str, Tensor]]

    def read(self) -> dict[str, Tensor]:
        """The arrays, checked to be what was claimed, and finite; no variance is below zero."""
        try:
            with warnings.catch_warnings(action="ignore"):
                arrays = self.load()
        except MixerError:
            raise
        except Exception as error:
            raise BrokenFile(f"{self.path} is damaged: {first_line(error)}; fetch or copy it again") from error
        for name, array in arrays.items():
            if not bool(torch.isfinite(array).all()):
                raise BrokenFile(f"{self.path} holds NaN or infinite numbers in {name}; it cannot be used")
            if name.endswith("running_var") and bool((array < 0).any()):
                raise BrokenFile(f"{self.path} holds a variance below zero in {name}; it cannot be used")
        return arrays


def check_names(path: Path, names: Collection[Any]) -> None:
    """Stops what no model has: too many arrays, and names that would not stand in one line on a terminal."""
    if not names:
        raise BrokenFile(f"{path} holds no arrays")
    if len(names) > MAX_ARRAYS:
        raise BrokenFile(f"{path} holds {len(names):,} arrays; no model here has over {MAX_ARRAYS:,}")
    for name in names:
        if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
            raise BrokenFile(f"{path} holds {first_line(repr(name))}; no array of a model is called so")


def types_of(name: str, types: Mapping[str, torch.dtype]) -> Mapping[str, torch.dtype]:
    """The types that the array `name` may have where arrays have one of `types`."""
    return {**types, **COUNTS} if name.endswith(COUNTER) else types


def claim(path: Path, name: str, shape: Sequence[Any], dtype: torch.dtype) -> Tensor:
    sound = len(shape) <= MAX_SIDES and all(isinstance(side, int) and side > 0 for side in shape)
    if not sound or math.prod(shape) >= 2**48:
        raise BrokenFile(f"{path} claims the shape {first_line(tuple(shape))} for {name}; it is damaged or hostile")
    return torch.empty(tuple(shape), dtype=dtype, device="meta")
