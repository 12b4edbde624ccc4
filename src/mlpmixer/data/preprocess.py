"""From a picture to the numbers a model expects, as its passport says."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from mlpmixer.data.scramble import scrambled
from mlpmixer.passport import Preprocessing


def preprocess(image: Image.Image | np.ndarray, how: Preprocessing) -> Float[Tensor, "3 H W"]:
    """Resize, centre crop, normalise; in float32. A side that ends up short of the crop is padded with black."""
    return normalise(prepare(image, how), how)


def prepare(image: Image.Image | np.ndarray, how: Preprocessing) -> UInt8[Tensor, "3 H W"]:
    """Resize and centre crop: the part that is done picture by picture, and ships bytes."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    size = (how.resize, how.resize) if how.shape == "stretch" else short_side(height, width, how.resize)
    return centre_crop(resize(pixels, size, how.interpolation), how.crop).contiguous()


def normalise(pixels: UInt8[Tensor, "*B 3 H W"], how: Preprocessing) -> Float[Tensor, "*B 3 H W"]:
    """(value − mean) / std of values in [0, 1], in float32, and in the order that `how` says.

    The part that is done to whole batches, on their device.
    """
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (how.mean, how.std))
    return scrambled(pixels.float().div_(255).sub_(mean).div_(std), how)


def short_side(height: int, width: int, pixels: int) -> tuple[int, int]:
    """The size in the same proportions whose shorter side has so many `pixels`."""
    if height <= width:
        return pixels, max(1, width * pixels // height)
    return max(1, height * pixels // width), pixels


def resize(
    pixels: UInt8[Tensor, "3 H W"], size: tuple[int, int], interpolation: str = "bilinear"
) -> UInt8[Tensor, "3 H2 W2"]:
    """Antialiased. `pixels` that have their channels last in memory are the fastest, and stay so."""
    if tuple(pixels.shape[1:]) == size:
        return pixels
    # Its strides must say where the channels are, as those of pixels[None] would not.
    batch = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size=size, mode=interpolation, antialias=True)[0]


def centre_crop(pixels: Tensor, crop: tuple[int, int]) -> Tensor:
    (height, width), (rows, columns) = pixels.shape[-2:], crop
    down, right = max(rows - height, 0), max(columns - width, 0)
    if down or right:
        pixels = F.pad(pixels, (right // 2, right - right // 2, down // 2, down - down // 2))
    top, left = round((pixels.shape[-2] - rows) / 2), round((pixels.shape[-1] - columns) / 2)
    return pixels[..., top : top + rows, left : left + columns]
