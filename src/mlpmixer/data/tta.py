"""Test-time augmentation: the center of an image, or several views of it whose predictions are averaged."""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mlpmixer.data.preprocess import prepare
from mlpmixer.metadata import Preprocessing

# "flip": also as in a mirror. "shifts": also shifted by half a patch, up and left, down and right; all that mirrored.
# "crops": also the four corners of what the center is cut from; all that mirrored.
TTA = Literal["none", "flip", "shifts", "crops"]
ALONG = (0, -1, 1)  # shifts, in half patches


class Sized(Protocol):
    """A model's config, which may have a `patch_size`."""

    @property
    def image_size(self) -> tuple[int, int]: ...


def half_patch(config: Sized) -> int:
    """Pixels by which "shifts" moves the images of a model: it sees them cut otherwise, but hardly misses any part."""
    patch = getattr(config, "patch_size", 0) or min(config.image_size) // 8
    return max(1, patch // 2)


def count(tta: TTA, how: Preprocessing) -> int:
    """How many views there are of one image."""
    views = {"shifts": len(ALONG), "crops": len(_offsets(how))}.get(tta, 1)
    return views * (1 if tta == "none" else 2)


def views_of(pixels: np.ndarray, how: Preprocessing, tta: TTA, shift: int = 1) -> UInt8[Tensor, "V 3 H W"]:
    """The usual one first. `shift`: from `half_patch`."""
    if tta != "crops":
        return prepared_views(prepare(pixels, how)[None], tta, shift)
    (height, width), (rows, columns) = _room(how), how.crop
    whole = prepare(pixels, dataclasses.replace(how, crop=(height, width)))
    views = torch.stack([whole[:, y : y + rows, x : x + columns] for y, x in _offsets(how)])
    return torch.cat([views, views.flip(-1)])


def prepared_views(images: UInt8[Tensor, "B 3 H W"], tta: TTA, shift: int) -> UInt8[Tensor, "VB 3 H W"]:
    """Of images that are prepared already, all but "crops": first all as they are, then each other view of all."""
    views = [shifted(images, along * shift) for along in (ALONG if tta == "shifts" else ALONG[:1])]
    return torch.cat(views if tta == "none" else [*views, *(view.flip(-1) for view in views)])


def shifted(images: UInt8[Tensor, "*B H W"], by: int) -> UInt8[Tensor, "*B H W"]:
    """Moved down and to the right by so many pixels; what comes in at the edges repeats them."""
    height, width = images.shape[-2:]
    rows, columns = ((torch.arange(side) - by).clamp(0, side - 1) for side in (height, width))
    return images[..., rows, :][..., columns]


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
