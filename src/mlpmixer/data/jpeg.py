"""JPEGs into arrays by simplejpeg, which saves the copies between Pillow's memory and an array's."""

from __future__ import annotations

import functools
import io
from types import ModuleType

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # in Exif
MAY_BE_TURNED = (b"Exif\x00\x00", b"tiff:Orientation")  # all that says so begins thus


def quick_jpeg(data: bytes, at_least: int | None) -> np.ndarray | None:
    """The pixels (height, width, 3) of an upright JPEG of usual colours; None where Pillow is to decode it.

    Both call the same library with the same settings, so the pixels are the same, bit for bit. simplejpeg refuses all
    that the library so much as warns of: Pillow then decides whether it is damage.
    """
    simplejpeg = _simplejpeg()
    if simplejpeg is None or not data.startswith(b"\xff\xd8") or _turned(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "RGB", "Gray") or height * width > (Image.MAX_IMAGE_PIXELS or height * width):
            return None
        by = _shrunk(height, width, at_least)
        tall, wide = -(-height // by), -(-width // by)
        pixels = simplejpeg.decode_jpeg(data, min_height=tall, min_width=wide)  # the smallest that is as large
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (tall, wide) else None


def _shrunk(height: int, width: int, at_least: int | None) -> int:
    """By how much Pillow's draft mode decodes it smaller: 8, 4, 2 or not."""
    most = min(height, width) // at_least if at_least else 1
    return next((by for by in (8, 4, 2) if by <= most), 1)


def _turned(data: bytes) -> bool:
    """Whether it is to be turned or mirrored before it is looked at."""
    if not any(mark in data for mark in MAY_BE_TURNED):
        return False
    with Image.open(io.BytesIO(data)) as opened:
        return opened.getexif().get(ORIENTATION, 1) != 1


@functools.cache
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:  # not everyone needs the extra fast-decode
        return None
    return simplejpeg
