"""RandAugment as the authors had it. Import this late: it brings torchvision.

Large pictures are faster as PIL images, and small ones, for most operations, as tensors.
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

Form = Tensor | Image.Image

GREY = 128  # where nothing of the picture is left
SMALL = 64 * 64  # pixels, up to which tensors are faster


class RandAugment:
    """`layers` times, one of the sixteen `OPERATIONS` is drawn, each as likely, and done at strength m, from 1 to 30.

    They are the authors' in their code, and so is the scale of m: an operation's usual range ends at 10, but m goes on
    (15 turns by 45 degrees). Torchvision's own RandAugment has fourteen operations and a scale of its own, on which 30
    is about as strong as 10 here. What differs from the authors: TranslateX, TranslateY and Cutout are in proportion
    to the picture and equal theirs at 224 pixels, where theirs are in pixels at any size; Contrast is around the
    picture's mean grey, where theirs is around one that follows from its size alone; and what is moved may be rounded
    to the pixel beside.
    """

    def __init__(self, layers: int, m: int):
        self.layers, self.m = layers, m

    def __call__(self, pixels: Tensor) -> Tensor:
        picture: Form = pixels
        for drawn, side in torch.rand(self.layers, 2).tolist():
            operation = OPERATIONS[int(drawn * len(OPERATIONS))]
            signed = operation in EITHER_WAY and side < 0.5
            picture = operation(picture, -self.m if signed else self.m)
        return as_tensor(picture)


def auto_contrast(picture: Form, m: int) -> Form:  # noqa: ARG001 (it knows no strength; so do the next two)
    return V.autocontrast(_quicker(picture))


def equalize(picture: Form, m: int) -> Form:  # noqa: ARG001
    return V.equalize(_quicker(picture))


def invert(picture: Form, m: int) -> Form:  # noqa: ARG001
    return V.invert(_quicker(picture))


def rotate(picture: Form, m: int) -> Image.Image:
    """By 3·m degrees."""
    return as_image(picture).rotate(3 * m, fillcolor=(GREY, GREY, GREY))


def shear_x(picture: Form, m: int) -> Image.Image:
    return _moved(picture, (1, 0.03 * m, 0, 0, 1, 0))


def shear_y(picture: Form, m: int) -> Image.Image:
    return _moved(picture, (1, 0, 0, 0.03 * m, 1, 0))


def translate_x(picture: Form, m: int) -> Image.Image:
    """By m·10/224 of the width."""
    image = as_image(picture)
    return _moved(image, (1, 0, int(m * 10 / 224 * image.width), 0, 1, 0))


def translate_y(picture: Form, m: int) -> Image.Image:
    image = as_image(picture)
    return _moved(image, (1, 0, 0, 0, 1, int(m * 10 / 224 * image.height)))


def color(picture: Form, m: int) -> Image.Image:
    """Greyer up to m = 5, then more colourful; the next three alike. (One pass where Pillow's own takes three.)"""
    much = 0.1 + 0.18 * m
    red, green, blue = ((1 - much) * share for share in (0.299, 0.587, 0.114))  # of the brightness
    rows = (red + much, green, blue, 0), (red, green + much, blue, 0), (red, green, blue + much, 0)
    return as_image(picture).convert("RGB", sum(rows, ()))


def contrast(picture: Form, m: int) -> Form:
    return V.adjust_contrast(_quicker(picture), 0.1 + 0.18 * m)


def brightness(picture: Form, m: int) -> Form:
    return V.adjust_brightness(_quicker(picture), 0.1 + 0.18 * m)


def sharpness(picture: Form, m: int) -> Image.Image:
    """Away from the mean of 3×3 pixels, of which the middle counts five times; the border stays as it is."""
    much = 0.1 + 0.18 * m
    blur = (1 - much) / 13
    weights = [*[blur] * 4, much + 5 * blur, *[blur] * 4]
    return as_image(picture).filter(ImageFilter.Kernel((3, 3), weights, scale=1))


def posterize(picture: Form, m: int) -> Form:
    """Keeps 0.4·m bits of each value, at least 1: the larger m, the milder, and nothing from 20 on."""
    return V.posterize(_quicker(picture), min(max(4 * m // 10, 1), 8))


def solarize(picture: Form, m: int) -> Form:
    """Inverts values from 25.6·m on: nothing from 10 on."""
    return V.solarize(_quicker(picture), 256 * m // 10) if m < 10 else picture


def solarize_add(picture: Form, m: int) -> Image.Image:
    """Adds 11·m to values below 128."""
    return as_image(picture).point(_sums(m))


def cutout(picture: Form, m: int) -> Image.Image:
    """Greys a square whose side is m·8/224 of the picture's shorter one, around any pixel."""
    image = as_image(picture).copy()
    reach = int(m * 4 / 224 * min(image.size))
    x, y = (int(torch.randint(side, ())) for side in image.size)
    image.paste((GREY, GREY, GREY), (x - reach, y - reach, x + reach, y + reach))
    return image


OPERATIONS: tuple[Callable[[Form, int], Form], ...] = (
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


def as_tensor(picture: Form) -> Tensor:
    if isinstance(picture, Tensor):
        return picture
    return torch.from_numpy(np.array(np.asarray(picture).transpose(2, 0, 1), order="C"))


def as_image(picture: Form) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) if isinstance(picture, Tensor) else picture


def _quicker(picture: Form) -> Form:
    height, width = V.get_size(picture)
    return as_tensor(picture) if height * width <= SMALL else as_image(picture)


@functools.cache
def _sums(m: int) -> list[int]:
    """What becomes of each value, in red, green and blue."""
    return 3 * [min(value + 11 * m, 255) if value < 128 else value for value in range(256)]


def _moved(picture: Form, output_to_input: tuple[float, ...]) -> Image.Image:
    """Each pixel of the result is the nearest one to where the affine map points."""
    image = as_image(picture)
    return image.transform(image.size, Image.Transform.AFFINE, output_to_input, fillcolor=(GREY, GREY, GREY))
