"""Torchvision's AutoAugment and TrivialAugment, quicker for small pictures and the same bit for bit.

With 32×32 pixels, what takes time is all that is around the work: Pillow's tables, each written in Python, and the
search for the one picture among the arguments. Import this late: it brings torchvision.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import numpy as np
from PIL import Image

from mlpmixer.data.rand_augment import SMALL
from mlpmixer.data.torchvision_guard import ensure_torchvision

ensure_torchvision()

from torchvision.transforms import v2  # noqa: E402


class _Quicker:
    """In front of torchvision's, where `super` goes. It is called with one PIL image in RGB."""

    def _flatten_and_extract_image_or_video(self, inputs: Any, unsupported_types: Any = ()) -> Any:  # noqa: ARG002
        return None, inputs[0]

    def _unflatten_and_insert_image_or_video(self, flat_inputs_with_spec: Any, image_or_video: Any) -> Any:  # noqa: ARG002
        return image_or_video

    def _apply_image_or_video_transform(self, image: Any, transform_id: Any, *how: Any, **more: Any) -> Any:
        if image.width * image.height <= SMALL:
            match transform_id:
                case "AutoContrast":
                    return autocontrast(image)
                case "Equalize":
                    return equalize(image)
                case "Posterize" | "Solarize" | "Invert":
                    return through(image, _table(transform_id, how[0]))
        apply = super()._apply_image_or_video_transform  # pyright: ignore[reportAttributeAccessIssue]
        return apply(image, transform_id, *how, **more)


class AutoAugment(_Quicker, v2.AutoAugment):
    pass


class TrivialAugment(_Quicker, v2.TrivialAugmentWide):
    pass


def autocontrast(image: Image.Image) -> Image.Image:
    """The darkest value of each colour becomes 0, the lightest 255."""
    colours = []
    for colour in image.split():
        low, high = cast(tuple[int, int], colour.getextrema())  # (numbers: it is one colour)
        if low < high:
            colour = through(colour, _stretched(low, high))
        colours.append(colour)
    return Image.merge("RGB", colours)


def equalize(image: Image.Image) -> Image.Image:
    """All values of a colour become about as frequent."""
    colours = []
    for colour in image.split():
        values = colour.tobytes()
        counts = np.bincount(np.frombuffer(values, dtype=np.uint8), minlength=256)
        _, lightest = cast(tuple[int, int], colour.getextrema())
        if step := (len(values) - int(counts[lightest])) // 255:
            darker = counts.cumsum() - counts
            colour = through(colour, np.minimum((darker + step // 2) // step, 255).astype(np.uint8).tobytes())
        colours.append(colour)
    return Image.merge("RGB", colours)


def through(image: Image.Image, table: bytes) -> Image.Image:
    return Image.frombytes(image.mode, image.size, image.tobytes().translate(table))


@functools.lru_cache(maxsize=4096)
def _stretched(low: int, high: int) -> bytes:
    """What becomes of each value."""
    scale = 255.0 / (high - low)
    return np.clip(np.arange(256) * scale - low * scale, 0, 255).astype(np.uint8).tobytes()


@functools.lru_cache(maxsize=64)
def _table(transform_id: str, magnitude: float) -> bytes:
    values = np.arange(256)
    match transform_id:
        case "Posterize":
            changed = values & (256 - 2 ** (8 - int(magnitude)))
        case "Solarize":
            changed = np.where(values < 255.0 * magnitude, values, 255 - values)
        case _:
            changed = 255 - values
    return changed.astype(np.uint8).tobytes()
