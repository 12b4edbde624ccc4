"""Statistics of one image: whether it can be used, what is unusual about it, its size, colors and hash."""

from __future__ import annotations

import hashlib
import io
import os
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from mlpmixer import files
from mlpmixer.data.doctor import near_duplicates
from mlpmixer.data.images import ImageInput, decode
from mlpmixer.data.limits import usual_limits
from mlpmixer.errors import ImageError

FLAGS = ("cmyk", "high_bit_depth", "palette", "gray", "transparent", "rotated", "animated")

STATS = np.dtype(
    [
        ("state", "S16"),  # "usable", or why not: missing, empty, unreadable, not_an_image, …
        *((flag, "?") for flag in FLAGS),
        ("format", "S8"),
        ("size", "u4", 2),  # width and height in pixels, upright
        ("mean", "f8", 3),  # of red, green and blue over all pixels, in [0, 1]
        ("mean_square", "f8", 3),
        ("digest", "S16"),  # of the file's bytes, or of the pixels where there is no file
        ("bits", "u8", 4),
        ("comparable", "?"),  # whether the bits tell anything
    ]
)

_LEVELS = np.arange(256)


def stats(image: ImageInput | None) -> np.ndarray:
    """A row of `STATS`; beside the state, it is filled for a usable image only. `image` None: it could not be read."""
    found = np.zeros((), STATS)
    try:
        found["state"] = "unreadable" if image is None else _measure(image, found)
    except MemoryError:
        found["state"] = "out_of_memory"
    return found


def _measure(image: ImageInput, found: np.ndarray) -> str:
    if isinstance(image, str | os.PathLike):
        try:
            image = files.read(image, usual_limits().bytes)
        except FileNotFoundError:
            return "missing"
        except OSError:
            return "unreadable"
    if isinstance(image, bytes):
        if not image:
            return "empty"
        if state := _header(image, found):
            return state
    try:
        decoded = decode(image)
    except ImageError as error:
        return "out_of_memory" if isinstance(error.__cause__, MemoryError) else "damaged"
    found["size"] = decoded.size
    counts = np.array(decoded.histogram()).reshape(3, 256)
    found["mean"] = counts @ _LEVELS / (255 * counts[0].sum())
    found["mean_square"] = counts @ _LEVELS**2 / (255**2 * counts[0].sum())
    found["gray"] = bool((counts == counts[0]).all())
    found["digest"] = _digest(image)
    small = decoded.resize((near_duplicates.SIDE, near_duplicates.SIDE), Image.Resampling.BOX).convert("L")
    found["bits"], found["comparable"] = near_duplicates.bits(np.asarray(small))
    return "usable"


def _header(content: bytes, found: np.ndarray) -> str:
    """Fill in what the header says; the state if the image cannot be used, or nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as opened:
                usual_limits().check_pixels(opened.height, opened.width)
                found["format"] = "JPEG" if opened.format == "MPO" else opened.format  # phones add a second view
                found["cmyk"] = opened.mode == "CMYK"
                found["high_bit_depth"] = opened.mode.startswith(("I", "F"))
                found["palette"] = opened.mode in ("P", "PA")
                found["transparent"] = opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info
                # A PNG would be decoded to the end in search of what it says only there.
                has_exif = opened.format != "PNG" or "exif" in opened.info
                found["rotated"] = has_exif and opened.getexif().get(0x0112, 1) in range(2, 9)
                found["animated"] = opened.format != "MPO" and getattr(opened, "is_animated", False)
    except (Image.DecompressionBombError, ImageError):
        return "too_large"
    except UnidentifiedImageError:
        return "not_an_image"
    except Exception:  # decoders fail in many ways on damaged files
        return "damaged"
    return ""


def _digest(image: bytes | Image.Image | np.ndarray) -> bytes:
    if isinstance(image, Image.Image):
        image = np.asarray(image)
    content = image if isinstance(image, bytes) else repr(image.shape).encode() + image.tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()
