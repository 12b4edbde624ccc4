"""JPEGs into arrays by simplejpeg, which saves the copies between Pillow's memory and an array's."""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np
from PIL import Image


def quick_jpeg(opened: Image.Image, data: bytes) -> np.ndarray | None:
    """The pixels (height, width, 3) of what Pillow has opened, not yet decoded; None where Pillow is to decode it.

    Both call the same library with the same settings, so the pixels are the same, bit for bit. simplejpeg refuses all
    that the library so much as warns of: Pillow then decides whether it is damage.
    """
    simplejpeg = _simplejpeg()
    usual = opened.format in ("JPEG", "MPO") and opened.mode in ("RGB", "L")
    if simplejpeg is None or not usual or opened.getexif().get(0x0112, 1) != 1:  # is to be turned
        return None
    width, height = opened.size
    try:
        pixels = simplejpeg.decode_jpeg(data, min_height=height, min_width=width)  # the smallest that is as large
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


@functools.cache
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:  # not everyone needs the extra fast-decode
        return None
    return simplejpeg
