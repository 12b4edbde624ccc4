"""Idx files: one array of bytes each, the form that MNIST made common; plain, or packed by gzip or xz.

Big-endian: two zero bytes, 8 (the type: unsigned bytes), the number of dimensions, each dimension as four bytes, then
the values.
"""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from mlpmixer.errors import DataError
from mlpmixer.files import open_regular

CHUNK = 1 << 20  # bytes
MAX_EXPANSION = 50  # a packed file may claim this many times its size; images are packed to a fifth or so
FREE = 1 << 24  # values that any file may claim: sorted labels are packed to next to nothing


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array in a file, uint8, of that many dimensions."""
    try:
        with open_regular(path) as file, _unpacked(file) as unpacked:
            return _array(path, unpacked, dimensions, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (EOFError, MemoryError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _unpacked(file: BinaryIO) -> BinaryIO:
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(file))
    if start == b"\xfd7zXZ\0":
        return cast(BinaryIO, lzma.open(file))
    return file


def _array(path: Path, file: BinaryIO, dimensions: int, size: int) -> np.ndarray:
    """`size`: of the file as it is packed, in bytes."""
    magic = file.read(4)
    if magic != bytes((0, 0, 8, dimensions)):
        start = magic.hex(" ") or "nothing"
        raise DataError(f"{path} is no idx file of bytes in {dimensions} dimensions: it starts with {start}")
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise _damaged(path, "it ends within its header")
    shape = struct.unpack(f">{dimensions}I", sizes)
    if prod(shape) > max(FREE, MAX_EXPANSION * size):
        raise _damaged(path, f"it claims {prod(shape):,} values, far more than it can hold")
    values = bytearray()
    while len(values) <= prod(shape) and (chunk := file.read(CHUNK)):  # never more than there is, whatever it claims
        values += chunk
    if len(values) != prod(shape):
        more = "more" if len(values) > prod(shape) else f"{len(values):,}"
        raise _damaged(path, f"it should hold {prod(shape):,} values and holds {more}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged: {why}; delete it and fetch or copy it again")
