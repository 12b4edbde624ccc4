"""What may be handed to a `Predictor` as an image, and what of it is decoded."""

from __future__ import annotations

import os
from typing import Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image

from mlpmixer.data.images import ImageInput
from mlpmixer.errors import ImageError
from mlpmixer.files import MOST, size
from mlpmixer.predict.addresses import Address
from mlpmixer.text import printable

TAKEN = "a path, the bytes of a file, an open binary file, a PIL image, or a uint8 array or tensor"
CHUNK = 1 << 20  # bytes that are read of a file at a time


class Readable(Protocol):
    """An open binary file, a `BytesIO`, an upload, the body of an HTTP answer."""

    def read(self, size: int, /) -> bytes: ...


Input: TypeAlias = ImageInput | bytearray | memoryview | torch.Tensor | Readable
ONE = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)


def is_one(given: object) -> bool:
    """Whether it is meant as one image, rather than as several (which an array of four sides is)."""
    if isinstance(given, np.ndarray | torch.Tensor):
        return given.ndim < 4
    return isinstance(given, ONE) or hasattr(given, "read") or not hasattr(given, "__iter__")


def image_of(given: object) -> ImageInput:
    """As what the decoder takes. An open file is read from where it stands, to its end.

    Tensors are (3, H, W) or (1, H, W) as torch has them, or else channels-last: (H, W, 3), or 4 or 1; where both would
    do, the first.
    """
    if isinstance(given, Address):
        return given.read()
    if isinstance(given, str | os.PathLike | bytes | Image.Image | np.ndarray):
        return given
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    if isinstance(given, torch.Tensor):
        return _from_tensor(given)
    if hasattr(given, "read"):
        return _read(given)  # pyright: ignore[reportArgumentType]
    raise ImageError(f"an image is {TAKEN}, not {_kind(given)}")


def name_of(given: object) -> str:
    """For a message about it."""
    return printable(os.fspath(given)) if isinstance(given, str | os.PathLike) else "the image"


def _from_tensor(tensor: torch.Tensor) -> np.ndarray:
    shape = tuple(tensor.shape)
    if tensor.dtype != torch.uint8 or len(shape) not in (2, 3):
        raise ImageError(f"a tensor must be uint8 (3, height, width) or (height, width, 3), not {tensor.dtype} {shape}")
    if len(shape) == 3 and shape[0] in (1, 3):
        tensor = tensor.movedim(0, 2)
    elif len(shape) == 3 and shape[2] not in (1, 3, 4):
        raise ImageError(f"a tensor must have 3 channels, or 1, in front or at the end, not the shape {shape}")
    if tensor.ndim == 3 and tensor.shape[2] == 1:
        tensor = tensor[:, :, 0]
    return tensor.detach().cpu().numpy()


def _read(file: Readable) -> bytes:
    parts, length = [], 0
    try:
        while part := file.read(CHUNK):
            if not isinstance(part, bytes | bytearray | memoryview):
                raise ImageError(f"an open file must give bytes, and this one gives {_kind(part)}")
            parts.append(part)
            length += len(part)
            if length > MOST:
                raise ImageError(f"the open file goes on after {size(MOST)}; no image does")
    except (OSError, ValueError, TypeError) as error:  # closed, not for reading, or cut off
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"the open file cannot be read ({printable(error, most=200)})") from error
    if not parts:
        raise ImageError("the open file is at its end; seek(0) leads back to its beginning")
    return b"".join(parts)


def _kind(given: object) -> str:
    name = type(given).__name__
    return "None" if given is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
