"""Idx files: one array of bytes each, the form that MNIST made common; plain, or packed by gzip or xz.

Big-endian: two zero bytes, 8 (the type: unsigned bytes), the number of dimensions, each dimension as four bytes, then
the values.
"""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib
from io import BufferedIOBase
from math import prod
from pathlib import Path

import numpy as np

from mlpmixer.errors import DataError

CHUNK = 1 << 20  # bytes


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array in a file, uint8, of that many dimensions."""
    try:
        with _unpacked(path) as file:
            return _array(path, file, dimensions)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _unpacked(path: Path) -> BufferedIOBase:
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if start == b"\xfd7zXZ\0":
        return lzma.open(path)
    return path.open("rb")


def _array(path: Path, file: BufferedIOBase, dimensions: int) -> np.ndarray:
    magic = file.read(4)
    if magic != bytes((0, 0, 8, dimensions)):
        start = magic.hex(" ") or "nothing"
        raise DataError(f"{path} is no idx file of bytes in {dimensions} dimensions: it starts with {start}")
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise _damaged(path, "it ends within its header")
    shape = struct.unpack(f">{dimensions}I", sizes)
    values = bytearray()
    while len(values) <= prod(shape) and (chunk := file.read(CHUNK)):  # never more than there is, whatever it claims
        values += chunk
    if len(values) != prod(shape):
        more = "more" if len(values) > prod(shape) else f"{len(values):,}"
        raise _damaged(path, f"it should hold {prod(shape):,} values and holds {more}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged: {why}; delete it and fetch or copy it again")
