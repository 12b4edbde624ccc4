"""Picture files into pixels: the one place where they are decoded."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mlpmixer.data.jpeg import quick_jpeg
from mlpmixer.errors import PictureError

Picture = str | os.PathLike[str] | bytes | Image.Image | np.ndarray


def decode(picture: Picture, *, at_least: int | None = None) -> Image.Image:
    """The picture upright, in RGB, its first frame if it moves, on white where it is transparent.

    `at_least` allows a large JPEG to be decoded smaller, its shorter side no less than that many pixels.
    """
    if isinstance(picture, np.ndarray):
        return _rgb(_from_array(picture))
    if isinstance(picture, Image.Image):
        return _rgb(picture)
    with _explained(picture):
        return _by_pillow(_read(picture), at_least)


def pixels(picture: Picture, *, at_least: int | None = None) -> np.ndarray:
    """The same as an array (height, width, 3), perhaps read-only: the shortest way to a tensor."""
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,):
        return picture
    if isinstance(picture, np.ndarray | Image.Image):
        return np.asarray(decode(picture))
    with _explained(picture):
        data = _read(picture)
        quick = quick_jpeg(data, at_least)
        return np.asarray(_by_pillow(data, at_least)) if quick is None else quick


def _read(picture: str | os.PathLike[str] | bytes) -> bytes:
    return picture if isinstance(picture, bytes) else Path(picture).read_bytes()


def _by_pillow(data: bytes, at_least: int | None) -> Image.Image:
    with Image.open(io.BytesIO(data)) as opened:
        if at_least is not None:
            opened.draft("RGB", (at_least, at_least))
        ImageOps.exif_transpose(opened, in_place=True)
        return _rgb(opened)


@contextmanager
def _explained(picture: str | os.PathLike[str] | bytes) -> Iterator[None]:
    """What goes wrong in the block is a `PictureError`."""
    name = "the picture" if isinstance(picture, bytes) else os.fspath(picture)
    try:
        with _QUIET:  # odd metadata is no reason to bother anyone
            yield
    except Image.DecompressionBombError:
        raise PictureError(f"{name} has over 178 million pixels; that is a mistake or an attack") from None
    except FileNotFoundError:
        raise PictureError(f"there is no file {name}") from None
    except IsADirectoryError:
        raise PictureError(f"{name} is a folder, not a picture") from None
    except PermissionError:
        raise PictureError(f"{name} cannot be read: permission denied") from None
    except Exception as error:  # decoders fail in many ways on damaged files; all mean the same to a caller
        raise PictureError(f"{name} is no picture, or a damaged one ({type(error).__name__})") from error


class _Quiet:
    """No warnings while any thread is in here. (Were each to save and restore what is shown, one would restore what
    another had set.)"""

    def __init__(self) -> None:
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
    if image.mode.startswith(("I", "F")):  # 16-bit grey; Pillow's own conversion would clip it to 8
        values = np.asarray(image, dtype=np.float32)
        image = Image.fromarray((values * (255 / max(float(values.max()), 255.0))).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise PictureError(f"an array must be uint8 (height, width[, 3 or 4]), not {array.dtype} {array.shape}")
    return Image.fromarray(array)
