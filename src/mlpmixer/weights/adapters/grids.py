"""From one grid of tokens to another: bicubic resampling as a linear map, and tiles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlpmixer.errors import UsageError

Grid = tuple[int, int]


class Resize:
    """The linear map that a bicubic resize of an image of tokens is, from one grid to another.

    Towards a coarser grid it averages what falls together. What is the same everywhere stays so.
    """

    def __init__(self, source: Grid, target: Grid):
        self.source, self.target = source, target
        self.rows, self.columns = (_resize_side(s, t) for s, t in zip(source, target, strict=True))

    def after(self, images: Tensor) -> Tensor:
        """U·p: images (…, source tokens) become (…, target tokens)."""
        images = images.unflatten(-1, self.source)
        return torch.einsum("...hw,Hh,Ww->...HW", images, self.rows, self.columns).flatten(-2)

    def before(self, weights: Tensor) -> Tensor:
        """w·U: weights (…, target tokens) of resized images become those (…, source tokens) of the images."""
        weights = weights.unflatten(-1, self.target)
        return torch.einsum("...HW,Hh,Ww->...hw", weights, self.rows, self.columns).flatten(-2)


def _resize_side(source: int, target: int) -> Tensor:
    # Along the last axis: torch 2.13 resizes columns that are one wide wrongly.
    positions = torch.eye(source, dtype=torch.float64).view(source, 1, 1, source)
    return F.interpolate(positions, size=(1, target), mode="bicubic", antialias=True).flatten(1).T


def offsets_of(grid: Grid) -> Grid:
    """How many offsets there are, along each side, from one token of a grid to another."""
    return 2 * grid[0] - 1, 2 * grid[1] - 1


def tiles_of(old: Grid, new: Grid, patch: int) -> tuple[int, int]:
    """How many tiles of the old image size, which is whole patches, make the new one: down and across.

    Raises:
        UsageError: No whole number does.
    """
    down, across = new[0] // old[0], new[1] // old[1]
    if (down * old[0], across * old[1]) != new or any(side % patch for side in old):
        raise UsageError(
            f"tiles needs a whole multiple of {old[0]}×{old[1]}, not {new[0]}×{new[1]}; resample takes any size"
        )
    return down, across


def tile_positions(grid: Grid, tiles: tuple[int, int]) -> Tensor:
    """(tiles, tokens of one): the index, in raster order over the whole image, of each token of each tile."""
    whole = torch.arange(tiles[0] * grid[0] * tiles[1] * grid[1])
    return whole.view(tiles[0], grid[0], tiles[1], grid[1]).transpose(1, 2).reshape(tiles[0] * tiles[1], -1)
