"""From a picture to the numbers a model expects, as its passport says."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mlpmixer.passport import Preprocessing


def preprocess(image: Image.Image, how: Preprocessing) -> Float[Tensor, "3 H W"]:
    """Resize, centre crop, normalise; in float32. A side that ends up short of the crop is padded with black."""
    size = (how.resize, how.resize)
    if how.shape == "short_side":
        scale = how.resize / min(image.size)
        size = (max(1, int(image.height * scale)), max(1, int(image.width * scale)))
        short = 0 if image.height <= image.width else 1
        size = (how.resize, size[1]) if short == 0 else (size[0], how.resize)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # channels last in memory: the fast way
    if tuple(pixels.shape[2:]) != size:
        pixels = F.interpolate(pixels, size=size, mode=how.interpolation, antialias=True)
    cropped = centre_crop(pixels[0], how.crop).float().div_(255)
    mean, std = torch.tensor(how.mean), torch.tensor(how.std)
    return cropped.sub_(mean[:, None, None]).div_(std[:, None, None])


def centre_crop(pixels: Tensor, crop: tuple[int, int]) -> Tensor:
    (height, width), (rows, columns) = pixels.shape[-2:], crop
    down, right = max(rows - height, 0), max(columns - width, 0)
    pixels = F.pad(pixels, (right // 2, right - right // 2, down // 2, down - down // 2))
    top, left = round((pixels.shape[-2] - rows) / 2), round((pixels.shape[-1] - columns) / 2)
    return pixels[..., top : top + rows, left : left + columns]
