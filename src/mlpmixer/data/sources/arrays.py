"""NumPy's arrays in files of strangers: what one claims is compared with what there is before memory is set aside."""

from __future__ import annotations

import os
import re
from math import prod
from typing import BinaryIO

import numpy as np

MARK = b"\x93NUMPY\x01\x00"
HEADER = re.compile(rb"\{'descr': '([<|]\w{2})', 'fortran_order': False, 'shape': \(([\d, ]{1,60})\), \}\s*")


def read_array(file: BinaryIO, dtype: str, dimensions: int) -> np.ndarray:
    """The next array that `np.save` wrote into a file; it must have this type, such as "<i8", and dimensions."""
    start = file.read(len(MARK) + 2)
    header = HEADER.fullmatch(file.read(int.from_bytes(start[len(MARK) :], "little")))
    if not start.startswith(MARK) or header is None:
        raise ValueError("no array of NumPy's")
    shape = [int(side) for side in header[2].split(b",") if side.strip()]
    if header[1].decode() != dtype or len(shape) != dimensions:
        raise ValueError(f"an array of other numbers than {dimensions} dimensions of {dtype}")
    count, left = prod(shape), os.fstat(file.fileno()).st_size - file.tell()
    if count * np.dtype(dtype).itemsize > left:
        raise ValueError("an array that claims more numbers than there are")
    return np.fromfile(file, dtype, count).reshape(shape)
