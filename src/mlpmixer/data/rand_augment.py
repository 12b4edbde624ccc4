"""RandAugment as the authors had it. Import this late: it brings torchvision.

Large images are faster as PIL images, and small ones, for most operations, as tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from mlpmixer.data.torchvision_guard import ensure_torchvision

ensure_torchvision()

from torchvision.transforms import v2  # noqa: E402

V: Any = v2.functional  # they take PIL images as well; their annotations know only tensors

ImageOrTensor = Tensor | Image.Image

GRAY = 128  # where nothing of the image is left
SMALL = 64 * 64  # pixels, up to which tensors are faster


class RandAugment:
    """`layers` times, one of the sixteen `OPERATIONS` is drawn, each as likely, and done at strength m, from 1 to 30.

    They are the authors' in their code, and so is the scale of m: an operation's usual range ends at 10, but m goes on
    (15 turns by 45 degrees). Torchvision's own RandAugment has fourteen operations and a scale of its own, on which 30
    is about as strong as 10 here. What differs from the authors: TranslateX, TranslateY and Cutout are in proportion
    to the image and equal theirs at 224 pixels, where theirs are in pixels at any size; Contrast is around the
    image's mean gray, where theirs is around one that follows from its size alone; and what is moved may be rounded
    to the pixel beside.
    """

    def __init__(self, layers: int, m: int):
        self.layers, self.m = layers, m

    def __call__(self, pixels: Tensor) -> Tensor:
        image: ImageOrTensor = pixels
        for drawn, side in torch.rand(self.layers, 2).tolist():
            operation = OPERATIONS[int(drawn * len(OPERATIONS))]
            signed = operation in EITHER_WAY and side < 0.5
            image = operation(image, -self.m if signed else self.m)
        return as_tensor(image)


def auto_contrast(image: ImageOrTensor, m: int) -> ImageOrTensor:  # noqa: ARG001 (it has no strength; nor do the next two)
    return V.autocontrast(_quicker(image))


def equalize(image: ImageOrTensor, m: int) -> ImageOrTensor:  # noqa: ARG001
    return V.equalize(_quicker(image))


def invert(image: ImageOrTensor, m: int) -> ImageOrTensor:  # noqa: ARG001
    return V.invert(_quicker(image))


def rotate(image: ImageOrTensor, m: int) -> Image.Image:
    """By 3·m degrees."""
    return as_image(image).rotate(3 * m, fillcolor=(GRAY, GRAY, GRAY))


def shear_x(image: ImageOrTensor, m: int) -> Image.Image:
    return _moved(image, (1, 0.03 * m, 0, 0, 1, 0))


def shear_y(image: ImageOrTensor, m: int) -> Image.Image:
    return _moved(image, (1, 0, 0, 0.03 * m, 1, 0))


def translate_x(image: ImageOrTensor, m: int) -> Image.Image:
    """By m·10/224 of the width."""
    pil = as_image(image)
    return _moved(pil, (1, 0, int(m * 10 / 224 * pil.width), 0, 1, 0))


def translate_y(image: ImageOrTensor, m: int) -> Image.Image:
    pil = as_image(image)
    return _moved(pil, (1, 0, 0, 0, 1, int(m * 10 / 224 * pil.height)))


def color(image: ImageOrTensor, m: int) -> Image.Image:
    """Grayer up to m = 5, then more colorful; the next three alike. (One pass where Pillow's own takes three.)"""
    factor = 0.1 + 0.18 * m
    red, green, blue = ((1 - factor) * share for share in (0.299, 0.587, 0.114))  # of the brightness
    rows = (red + factor, green, blue, 0), (red, green + factor, blue, 0), (red, green, blue + factor, 0)
    return as_image(image).convert("RGB", sum(rows, ()))


def contrast(image: ImageOrTensor, m: int) -> ImageOrTensor:
    return V.adjust_contrast(_quicker(image), 0.1 + 0.18 * m)


def brightness(image: ImageOrTensor, m: int) -> ImageOrTensor:
    return V.adjust_brightness(_quicker(image), 0.1 + 0.18 * m)


def sharpness(image: ImageOrTensor, m: int) -> Image.Image:
    """Away from the mean of 3×3 pixels, of which the middle counts five times; the border stays as it is."""
    factor = 0.1 + 0.18 * m
    blur = (1 - factor) / 13
    weights = [*[blur] * 4, factor + 5 * blur, *[blur] * 4]
    return as_image(image).filter(ImageFilter.Kernel((3, 3), weights, scale=1))


def posterize(image: ImageOrTensor, m: int) -> ImageOrTensor:
    """Keeps 0.4·m bits of each value, at least 1: the larger m, the milder, and nothing from 20 on."""
    return V.posterize(_quicker(image), min(max(4 * m // 10, 1), 8))


def solarize(image: ImageOrTensor, m: int) -> ImageOrTensor:
    """Inverts values from 25.6·m on: nothing from 10 on."""
    return V.solarize(_quicker(image), 256 * m // 10) if m < 10 else image


def solarize_add(image: ImageOrTensor, m: int) -> Image.Image:
    """Adds 11·m to values below 128."""
    return as_image(image).point(_sums(m))


def cutout(image: ImageOrTensor, m: int) -> Image.Image:
    """Grays a square whose side is m·8/224 of the image's shorter one, around any pixel."""
    pil = as_image(image).copy()
    reach = int(m * 4 / 224 * min(pil.size))
    x, y = (int(torch.randint(side, ())) for side in pil.size)
    pil.paste((GRAY, GRAY, GRAY), (x - reach, y - reach, x + reach, y + reach))
    return pil


OPERATIONS: tuple[Callable[[ImageOrTensor, int], ImageOrTensor], ...] = (
    auto_contrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    color,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    cutout,
    solarize_add,
)
EITHER_WAY = {rotate, shear_x, shear_y, translate_x, translate_y}  # by m or by −m


def as_tensor(image: ImageOrTensor) -> Tensor:
    if isinstance(image, Tensor):
        return image
    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def as_image(image: ImageOrTensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) if isinstance(image, Tensor) else image


def _quicker(image: ImageOrTensor) -> ImageOrTensor:
    height, width = V.get_size(image)
    return as_tensor(image) if height * width <= SMALL else as_image(image)


@functools.cache
def _sums(m: int) -> list[int]:
    """The lookup table of values, for red, green and blue."""
    return 3 * [min(value + 11 * m, 255) if value < 128 else value for value in range(256)]


def _moved(image: ImageOrTensor, output_to_input: tuple[float, ...]) -> Image.Image:
    """Each pixel of the result is the nearest one to where the affine map points."""
    pil = as_image(image)
    return pil.transform(pil.size, Image.Transform.AFFINE, output_to_input, fillcolor=(GRAY, GRAY, GRAY))
