"""Mixup and cutmix: each image of a batch is blended with the one before it, and so are their labels.

The amount is drawn once for each batch of the run, so that all its parts, on any number of devices, agree. A part
brings one image more, in front: the last of the part before it. So the whole batch is rolled by one, wherever it is
cut; what is paired with the first image is the batch's last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mlpmixer.data.rng import random_uint64
from mlpmixer.recipe import Augment


@dataclass(frozen=True)
class Mix:
    """`keep`: the share of each image that stays. `box`: for cutmix, the (top, bottom, left, right) that does not,
    as shares of the sides."""

    keep: float
    box: tuple[float, float, float, float] | None = None

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(n + 1, 3, H, W) and (n + 1, classes), with the one before in front; n of each come back."""
        before, images = images[:-1], images[1:]
        keep = self.keep
        if self.box is None:
            images = images * keep + before * (1 - keep)
        else:
            rows, columns = images.shape[2:]
            top, bottom = (round(side * rows) for side in self.box[:2])
            left, right = (round(side * columns) for side in self.box[2:])
            images = images.clone()
            images[:, :, top:bottom, left:right] = before[:, :, top:bottom, left:right]
            keep = 1 - (bottom - top) * (right - left) / (rows * columns)
        return images, targets[1:] * keep + targets[:-1] * (1 - keep)


def mixes(how: Augment) -> bool:
    return how.mixup > 0 or how.cutmix > 0


def mix_of(how: Augment, seed: int, step: int) -> Mix | None:
    """What is done to the batch of this step."""
    chance = np.random.Generator(np.random.Philox(random_uint64("mix", seed, step)))
    if not mixes(how) or chance.random() >= how.mix_chance:
        return None
    if how.mixup > 0 and (how.cutmix == 0 or chance.random() < 0.5):
        a = chance.beta(how.mixup, how.mixup)
        return Mix(max(a, 1 - a))  # the authors' form: an image is never the smaller share of itself
    side = float(np.sqrt(1 - chance.beta(how.cutmix, how.cutmix)))
    middle_row, middle_column = chance.random(2)
    edges = (middle_row - side / 2, middle_row + side / 2, middle_column - side / 2, middle_column + side / 2)
    top, bottom, left, right = (min(max(float(edge), 0.0), 1.0) for edge in edges)
    return Mix(1.0, (top, bottom, left, right))
