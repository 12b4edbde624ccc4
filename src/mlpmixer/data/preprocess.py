"""Preprocessing: from an image to the input of a model, as its metadata says."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from mlpmixer.data.images import ImageInput, pixels
from mlpmixer.errors import ImageError
from mlpmixer.kernels.resize import resized
from mlpmixer.metadata import ModelInfo, Preprocessing

LONGEST = 100_000  # pixels of a long side, once the short one has its size: beyond, a small file takes all memory


class HasMetadata(Protocol):
    """A model of ours."""

    metadata: ModelInfo


class Transform:
    """Prepares images as a model expects them; can be pickled into the workers of a DataLoader."""

    def __init__(self, preprocessing: Preprocessing):
        self.preprocessing = preprocessing

    def __call__(self, image: ImageInput) -> Float[Tensor, "3 H W"]:
        return preprocess(pixels(image), self.preprocessing)

    def __repr__(self) -> str:
        return f"Transform({self.preprocessing})"


def transform(model: HasMetadata) -> Transform:
    """The transform for one's own `Dataset` or `DataLoader`: what `Predictor` does to an image, too.

    Args:
        model: A model of ours; its metadata says how.

    Returns:
        A callable from a PIL image, a uint8 array (height, width[, 3 or 4]), a path or the bytes of a file to a
        normalized float32 tensor (3, height, width).

    Examples:
        >>> prepare = mlpmixer.transform(mlpmixer.load("mixer_cifar10"))
        >>> prepare("photo.jpg").shape
        torch.Size([3, 32, 32])
    """
    return Transform(model.metadata.preprocessing)


def preprocess(image: Image.Image | np.ndarray, how: Preprocessing) -> Float[Tensor, "3 H W"]:
    """Resize, center crop, normalize; in float32. A side that ends up short of the crop is padded with black."""
    return normalize(prepare(image, how), how)


def prepare(image: Image.Image | np.ndarray, how: Preprocessing) -> UInt8[Tensor, "3 H W"]:
    """Resize and center crop: the part that is done image by image, in bytes."""
    array = np.asarray(image)
    height, width = array.shape[:2]
    require_proportions(height, width, how.resize)
    size = _resized(height, width, how)
    rows, columns = how.crop
    if rows > size[0] or columns > size[1]:
        return center_crop(resize(array, size, how.interpolation), how.crop).contiguous()
    return resize(array, size, how.interpolation, (*_middle(size, how.crop), rows, columns))


def visible_region(height: int, width: int, how: Preprocessing) -> tuple[float, float, float, float]:
    """The part of an image that a model is given: left, top, right, bottom, as shares of the image's sides.

    Below 0 or above 1 where black is added around it.
    """
    size = _resized(height, width, how)
    (top, left), (rows, columns) = _middle(size, how.crop), how.crop
    return left / size[1], top / size[0], (left + columns) / size[1], (top + rows) / size[0]


def normalize(pixels: UInt8[Tensor, "*B 3 H W"], how: Preprocessing) -> Float[Tensor, "*B 3 H W"]:
    """(value − mean) / std of values in [0, 1], in float32.

    The part that is done to whole batches, on their device.
    """
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (how.mean, how.std))
    return pixels.float().div_(255).sub_(mean).div_(std)


def _resized(height: int, width: int, how: Preprocessing) -> tuple[int, int]:
    return (how.resize, how.resize) if how.shape == "stretch" else short_side(height, width, how.resize)


def short_side(height: int, width: int, pixels: int) -> tuple[int, int]:
    """The size in the same proportions whose shorter side has so many `pixels`."""
    if height <= width:
        return pixels, max(1, width * pixels // height)
    return max(1, height * pixels // width), pixels


def resize(
    image: UInt8[np.ndarray, "H W 3"],
    size: tuple[int, int],
    interpolation: str = "bilinear",
    window: tuple[int, int, int, int] | None = None,
) -> UInt8[Tensor, "3 H2 W2"]:
    """Scaled with antialiasing. `window`: only these (top, left, rows, columns) of the result."""
    require_proportions(image.shape[0], image.shape[1], min(size))
    window = window or (0, 0, *size)
    found = resized(image, size, window, interpolation)
    if found is not None:
        return found
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if tuple(pixels.shape[1:]) != size:
        # The fastest is a table with its channels last. Its strides must say so, as those of pixels[None] would not.
        batch = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
        pixels = F.interpolate(batch, size=size, mode=interpolation, antialias=True)[0]
    top, left, rows, columns = window
    return pixels[:, top : top + rows, left : left + columns].contiguous()


def center_crop(pixels: Tensor, crop: tuple[int, int]) -> Tensor:
    (height, width), (rows, columns) = pixels.shape[-2:], crop
    down, right = max(rows - height, 0), max(columns - width, 0)
    if down or right:
        pixels = F.pad(pixels, (right // 2, right - right // 2, down // 2, down - down // 2))
    top, left = _middle((pixels.shape[-2], pixels.shape[-1]), crop)
    return pixels[..., top : top + rows, left : left + columns]


def require_proportions(height: int, width: int, pixels: int) -> None:
    """Refuse an image so narrow that it is absurd to scale it until its short side has so many `pixels`."""
    short, long = sorted((height, width))
    if not short or long * pixels > LONGEST * short:
        raise ImageError(
            f"an image of {width:,}×{height:,} pixels is too narrow: with a short side of {pixels:,} pixels, its long "
            f"one would be above {LONGEST:,}; crop it"
        )


def _middle(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """Top and left of the crop."""
    return round((size[0] - crop[0]) / 2), round((size[1] - crop[1]) / 2)
