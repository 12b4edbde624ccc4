"""What the images of a data set look like, all together: sizes, formats, colors, and what fits them."""

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
class Looks:
    """Of all images that can be used: sizes in pixels, how many have what; and colors of those to learn from.

    `mean` and `std` are of red, green and blue in [0, 1] over all pixels, every image weighing the same.
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


def looks(found: np.ndarray, usable: np.ndarray, learnt: np.ndarray) -> Looks:
    """From `FACTS` of all images, the positions of those that can be used, and of those among them to learn from."""
    width, height = found["size"][usable].T.astype(np.int64)
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    by_size = np.lexsort((longer, shorter))
    smallest, median, largest = by_size[[0, len(by_size) // 2, -1]]
    mean = found["mean"][learnt].mean(axis=0)
    std = np.sqrt(np.maximum(found["mean_square"][learnt].mean(axis=0) - mean**2, 0))
    return Looks(
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
    """For a model that starts afresh: the largest usual side that half of the images have, and the set's colors."""
    side = max(target for target in TARGETS if target <= max(np.median(shorter), TARGETS[0]))
    fits = (shorter == side).all() and (longer == side).all()  # nothing to be gained by scaling up and cropping
    return Preprocessing(
        resize=side if fits else Preprocessing.usual((side, side)).resize,
        crop=(side, side),
        shape="stretch" if np.median(longer / shorter) > 2 else "short_side",  # a crop would see less than half
        mean=tuple(round(value, 4) for value in mean.tolist()),
        std=tuple(round(value, 4) for value in std.tolist()),
    )
