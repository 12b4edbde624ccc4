"""Test-time augmentation: the center of an image, or several views of it whose predictions are averaged."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mlpmixer.data.preprocess import prepare
from mlpmixer.metadata import Preprocessing

# "flip": also as in a mirror. "crops": also the four corners of what the center is cut from, and all that mirrored.
TTA = Literal["none", "flip", "crops"]


def count(tta: TTA, how: Preprocessing) -> int:
    """How many views there are of one image."""
    crops = len(_offsets(how)) if tta == "crops" else 1
    return crops * (1 if tta == "none" else 2)


def views_of(pixels: np.ndarray, how: Preprocessing, tta: TTA) -> UInt8[Tensor, "V 3 H W"]:
    """The usual one first."""
    if tta == "crops":
        (height, width), (rows, columns) = _room(how), how.crop
        whole = prepare(pixels, dataclasses.replace(how, crop=(height, width)))
        views = torch.stack([whole[:, y : y + rows, x : x + columns] for y, x in _offsets(how)])
    else:
        views = prepare(pixels, how)[None]
    return views if tta == "none" else torch.cat([views, views.flip(-1)])


def _room(how: Preprocessing) -> tuple[int, int]:
    """Height and width of what every image fills, once it is scaled."""
    rows, columns = how.crop
    return max(how.resize, rows), max(how.resize, columns)


def _offsets(how: Preprocessing) -> list[tuple[int, int]]:
    """Top and left of each crop, the center first; only one where the crop leaves no room."""
    (height, width), (rows, columns) = _room(how), how.crop
    down, right = height - rows, width - columns
    corners = [(y, x) for y in (0, down) for x in (0, right)]
    return list(dict.fromkeys([(round(down / 2), round(right / 2)), *corners]))
