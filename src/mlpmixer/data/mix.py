"""Mixup and CutMix: each image of a batch is mixed with the one before it, and so are their labels.

The amount is drawn once for each batch of the run, so that all its parts, on any number of devices, agree. A part has
one more image in front: the last of the part before it. So the whole batch is rolled by one, wherever it is cut; the
first image is mixed with the last one of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mlpmixer.data.rng import random_uint64
from mlpmixer.recipe import Augment


@dataclass(frozen=True)
class Mix:
    """The mixing of one batch.

    Attributes:
        lam: The share of each image that stays, λ in the papers.
        box: For CutMix, the (top, bottom, left, right) of the part that is replaced, as shares of the sides.
    """

    lam: float
    box: tuple[float, float, float, float] | None = None

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images (n + 1, 3, H, W) and targets (n + 1, classes), with the one before in front, into n of each."""
        before, images = images[:-1], images[1:]
        lam = self.lam
        if self.box is None:
            images = images * lam + before * (1 - lam)
        else:
            rows, columns = images.shape[2:]
            top, bottom = (round(side * rows) for side in self.box[:2])
            left, right = (round(side * columns) for side in self.box[2:])
            images = images.clone()
            images[:, :, top:bottom, left:right] = before[:, :, top:bottom, left:right]
            lam = 1 - (bottom - top) * (right - left) / (rows * columns)
        return images, targets[1:] * lam + targets[:-1] * (1 - lam)


def mixes(how: Augment) -> bool:
    return how.mixup > 0 or how.cutmix > 0


def mix_of(how: Augment, seed: int, step: int) -> Mix | None:
    """The mixing of the batch of a step; None: it is left alone."""
    rng = np.random.Generator(np.random.Philox(random_uint64("mix", seed, step)))
    if not mixes(how) or rng.random() >= how.mix_chance:
        return None
    if how.mixup > 0 and (how.cutmix == 0 or rng.random() < 0.5):
        a = rng.beta(how.mixup, how.mixup)
        return Mix(max(a, 1 - a))  # the authors' form: an image is never the smaller share of itself
    side = float(np.sqrt(1 - rng.beta(how.cutmix, how.cutmix)))
    middle_row, middle_column = rng.random(2)
    edges = (middle_row - side / 2, middle_row + side / 2, middle_column - side / 2, middle_column + side / 2)
    top, bottom, left, right = (min(max(float(edge), 0.0), 1.0) for edge in edges)
    return Mix(1.0, (top, bottom, left, right))
