"""Appearance of a data set as a whole: sizes, formats, colors, and the preprocessing that fits them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlpmixer.metadata import Preprocessing

SIDES = (32, 64, 128, 256, 512, 1024, 2048)  # where the bars of the shorter side are cut, in pixels
SIDE_NAMES = ("under 32", *(f"{low} to {high - 1}" for low, high in itertools.pairwise(SIDES)), "2048 and more")
RATIOS = (1 / 2, 0.8, 1.25, 2)  # and those of width to height
RATIO_NAMES = ("over 1:2 tall", "tall", "about square", "wide", "over 2:1 wide")
TARGETS = (28, 32, 64, 96, 224)  # sides of models' images


@dataclass(frozen=True)
class Appearance:
    """Sizes and formats of all images that can be used, and colors of those of train.

    Sizes are in pixels, the other numbers count images. `mean` and `std` are of red, green and blue in [0, 1] over all
    pixels, every image weighing the same.
    """

    smallest: tuple[int, int]  # width and height, of the image with the shortest side
    median: tuple[int, int]
    largest: tuple[int, int]
    shorter_side: dict[str, int]
    ratio: dict[str, int]
    formats: dict[str, int]
    gray: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    suggested: Preprocessing


def appearance_of(found: np.ndarray, usable: np.ndarray, train: np.ndarray) -> Appearance:
    """The appearance of a data set.

    Args:
        found: `STATS` of all images.
        usable: The indices of those that can be used.
        train: The indices of those among them whose colors count.
    """
    width, height = found["size"][usable].T.astype(np.int64)
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    by_size = np.lexsort((longer, shorter))
    smallest, median, largest = by_size[[0, len(by_size) // 2, -1]]
    mean = found["mean"][train].mean(axis=0)
    std = np.sqrt(np.maximum(found["mean_square"][train].mean(axis=0) - mean**2, 0))
    return Appearance(
        smallest=(int(width[smallest]), int(height[smallest])),
        median=(int(width[median]), int(height[median])),
        largest=(int(width[largest]), int(height[largest])),
        shorter_side=_bars(SIDE_NAMES, np.searchsorted(SIDES, shorter, side="right")),
        ratio=_bars(RATIO_NAMES, np.searchsorted(RATIOS, width / height, side="right")),
        formats={name.decode(): count for name, count in Counter(found["format"][usable].tolist()).most_common()},
        gray=int(found["gray"][usable].sum()),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        suggested=_suggested(shorter, longer, mean, std),
    )


def _bars(names: Sequence[str], which: np.ndarray) -> dict[str, int]:
    return dict(zip(names, np.bincount(which, minlength=len(names)).tolist(), strict=True))


def _suggested(shorter: np.ndarray, longer: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Preprocessing:
    """For a model without pretrained weights: the largest usual side that half of the images have, and their colors."""
    side = max(target for target in TARGETS if target <= max(np.median(shorter), TARGETS[0]))
    fits = (shorter == side).all() and (longer == side).all()  # nothing to be gained by scaling up and cropping
    return Preprocessing(
        resize=side if fits else Preprocessing.usual((side, side)).resize,
        crop=(side, side),
        shape="stretch" if np.median(longer / shorter) > 2 else "short_side",  # a crop would see less than half
        mean=tuple(round(value, 4) for value in mean.tolist()),
        std=tuple(round(value, 4) for value in std.tolist()),
    )
