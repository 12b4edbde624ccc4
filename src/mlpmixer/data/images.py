"""Decoding of image files into pixels, for all of mlpmixer."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from mlpmixer import files
from mlpmixer.data.jpeg import orientation, quick_jpeg
from mlpmixer.data.limits import DECODING, ROOM_A_PIXEL, Limits, usual_limits
from mlpmixer.errors import ImageError, MixerError

ImageInput = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

UPRIGHT = {  # from Exif's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(image: ImageInput, limits: Limits | None = None) -> Image.Image:
    """Decode an image: upright, in RGB, its first frame if it is animated, on white where it is transparent.

    It is decoded at full size: libjpeg's decoding at a smaller scale gives other pixels, and small models other labels.

    Args:
        image: A path, the bytes of a file, an image of Pillow's, or a uint8 array (height, width[, 3 or 4]).
        limits: What it may cost; None: `usual_limits()`.

    Raises:
        ImageError: It is not a readable image, or exceeds the limits; the message begins with its name.
    """
    with _explained(image):
        if isinstance(image, np.ndarray):
            return _rgb(_from_array(image))
        if isinstance(image, Image.Image):
            if not all(image.size):
                raise ImageError("has no pixels")
            image.load()
            return _rgb(_upright(image))
        limits = limits or usual_limits()
        return _by_pillow(_read(image, limits), limits)


def pixels(image: ImageInput, limits: Limits | None = None, *, name: str | None = None) -> np.ndarray:
    """Decode an image into an array (height, width, 3) of uint8, perhaps read-only; otherwise as `decode`.

    name: what messages call it, instead of its path or "the image".
    """
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
        return image
    if isinstance(image, np.ndarray | Image.Image):
        return np.asarray(decode(image))
    with _explained(image if name is None else name):
        limits = limits or usual_limits()
        data = _read(image, limits)
        quick = quick_jpeg(data, limits)
        return np.asarray(_by_pillow(data, limits)) if quick is None else quick


def _read(image: str | os.PathLike[str] | bytes, limits: Limits) -> bytes:
    data = image if isinstance(image, bytes) else files.read(image, limits.bytes)
    limits.check_bytes(data)
    return data


def _by_pillow(data: bytes, limits: Limits) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=limits.formats) as opened:
        limits.check_pixels(opened.height, opened.width)
        if data.startswith(b"\xff\xd8"):
            limits.check_scans(data, opened.height, opened.width)
        with DECODING.of(opened.height * opened.width * ROOM_A_PIXEL):
            opened.load()
            return _rgb(_upright(opened))


def _upright(image: Image.Image) -> Image.Image:
    way = UPRIGHT.get(orientation(image))
    return image if way is None else image.transpose(way)


@contextmanager
def _explained(image: ImageInput) -> Iterator[None]:
    """Turn what goes wrong in the block into an `ImageError` that begins with the image's name."""
    name = os.fspath(image) if isinstance(image, str | os.PathLike) else "the image"
    try:
        with _QUIET:  # odd metadata is no reason to bother anyone
            yield
    except ImageError as error:
        raise ImageError(f"{name} {error}") from None
    except MixerError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more pixels than Pillow decodes; scale it down") from None
    except FileNotFoundError:
        raise ImageError(f"there is no file {name}") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder, not an image") from None
    except OSError as error:
        if error.errno is None:  # a decoder's, not the system's
            raise ImageError(f"{name} is not a readable image ({type(error).__name__})") from error
        raise ImageError(f"{name} cannot be read: {error.strerror}") from None
    except Exception as error:  # decoders fail in many ways on damaged files; all mean the same to a caller
        raise ImageError(f"{name} is not a readable image ({type(error).__name__})") from error


class _Quiet:
    """Silences warnings while any thread is inside. (If each thread saved and restored the filters, one would restore
    what another had set.)"""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):  # threads that are in here are not there in a child
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.__exit__(None, None, None)


_QUIET = _Quiet()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16-bit gray; Pillow's own conversion would clip it to 8
        values = np.asarray(image, dtype=np.float32)
        image = Image.fromarray((values * (255 / max(float(values.max()), 255.0))).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not fits:
        raise ImageError(f"must be a uint8 array (height, width[, 3 or 4]), not {array.dtype} {array.shape}")
    if not array.size:
        raise ImageError(f"has no pixels: its shape is {array.shape}")
    return Image.fromarray(array)
