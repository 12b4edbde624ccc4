"""Bicubic resampling from one grid of tokens to another, as a linear map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
