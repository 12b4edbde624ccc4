"""JPEG decoding by simplejpeg, which saves the copies between Pillow's memory and an array's."""

from __future__ import annotations

import functools
import io
from types import ModuleType

import numpy as np
from PIL import Image

from mlpmixer.data.limits import DECODING, ROOM_A_JPEG_PIXEL, ROOM_A_PIXEL, Limits

ORIENTATION = 0x0112  # in Exif
MOST_EXIF = 1 << 20  # bytes that are read for it; a JPEG has up to 64 KB, a PNG with previews a little more
MAY_BE_TURNED = (b"Exif\x00\x00", b"tiff:Orientation")  # all that says so begins thus


def quick_jpeg(data: bytes, limits: Limits) -> np.ndarray | None:
    """The pixels (height, width, 3) of an upright JPEG of usual colors; None where Pillow is to decode it.

    Both call the same library with the same settings, so the pixels are the same, bit for bit. simplejpeg refuses all
    that the library so much as warns of: Pillow then decides whether it is damage.
    """
    simplejpeg = decoder()
    if simplejpeg is None or not data.startswith(b"\xff\xd8") or _turned(data):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colors not in ("YCbCr", "RGB", "Gray"):
        return None
    limits.check_pixels(height, width)
    a_pixel = ROOM_A_JPEG_PIXEL if limits.check_scans(data, height, width) <= 3 else ROOM_A_PIXEL
    with DECODING.of(height * width * a_pixel):
        try:
            pixels = simplejpeg.decode_jpeg(data)
        except ValueError:
            return None
    return pixels if pixels.shape[:2] == (height, width) else None


def orientation(image: Image.Image) -> int:
    """The Exif orientation, 1 to 8; 1 where the metadata cannot be read, or would take long."""
    if len(image.info.get("exif", b"")) > MOST_EXIF:
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # odd metadata is no reason to refuse an image
        return 1
    return found if isinstance(found, int) else 1


def _turned(data: bytes) -> bool:
    """Whether Exif says to rotate or mirror it."""
    if not any(mark in data for mark in MAY_BE_TURNED):
        return False
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as opened:
        return orientation(opened) != 1


@functools.cache
def decoder() -> ModuleType | None:
    """The package simplejpeg, of the extra fast-decode; None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
