"""Pixels in another order, the same for all images: does a model need to know what lies beside what? (Section 3.4.)

"patches": patches change places, and the pixels within a patch too, in all patches alike. To a Mixer this is nothing
but another order of its weights. "pixels": all pixels of the image change places.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from mlpmixer.data.rng import permutation
from mlpmixer.errors import DataError
from mlpmixer.metadata import Preprocessing


def scrambled(images: Shaped[Tensor, "*B 3 H W"], how: Preprocessing) -> Shaped[Tensor, "*B 3 H W"]:
    if how.scramble == "none":
        return images
    order = torch.from_numpy(_order(how.scramble, how.scramble_patch, *images.shape[-2:])).to(images.device)
    return images.flatten(-2).index_select(-1, order).view(images.shape)


def order_of_patches(rows: int, columns: int) -> Int[np.ndarray, " S"]:
    """For each place of the scrambled image, the place that it shows."""
    return permutation(rows * columns, "patches")


def order_within(patch: int) -> Int[np.ndarray, " PP"]:
    return permutation(patch * patch, "within a patch")


@lru_cache
def _order(scramble: str, patch: int, height: int, width: int) -> Int[np.ndarray, " HW"]:
    """For each pixel of the scrambled image, in raster order, the pixel that it shows."""
    if scramble == "pixels":
        return permutation(height * width, "pixels")
    if height % patch or width % patch:
        raise DataError(f"images of {height}×{width} cannot be cut into patches of {patch} to be scrambled")
    rows, columns = height // patch, width // patch
    pixels = np.arange(height * width).reshape(rows, patch, columns, patch).transpose(0, 2, 1, 3)
    moved = pixels.reshape(rows * columns, patch * patch)[order_of_patches(rows, columns)][:, order_within(patch)]
    return moved.reshape(rows, columns, patch, patch).transpose(0, 2, 1, 3).reshape(-1)
