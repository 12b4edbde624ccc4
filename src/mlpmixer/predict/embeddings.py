"""Embeddings (penultimate features) as one growing .npy file: a row an image, in the order of the predictions.

The file says how many rows it has, and is a whole one after each batch. Rows are written before the predictions that
they belong to, so that after a kill there are at least as many; those too many are deleted.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from mlpmixer.errors import DataError, UsageError
from mlpmixer.files import open_regular

HEADER = 128  # bytes: what numpy takes for a table of float32


class Embeddings:
    """`rows`: append after so many; None: a new file."""

    def __init__(self, path: Path, width: int, rows: int | None = None):
        self.path, self.width = path, width
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w+b" if rows is None else "r+b")
            self._file.truncate(HEADER + (rows or 0) * width * 4)
            self.rows = rows or 0
            self._write_header()
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None

    def write(self, row: np.ndarray) -> None:
        assert row.shape == (self.width,)
        self._file.write(np.ascontiguousarray(row, "<f4").tobytes())
        self.rows += 1

    def flush(self) -> None:
        self._file.flush()  # the rows first
        self._write_header()

    def close(self) -> None:
        self.flush()
        self._file.close()

    def _write_header(self) -> None:
        header = io.BytesIO()
        about: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.width)}
        np.lib.format.write_array_header_1_0(header, about)
        assert header.tell() == HEADER
        self._file.seek(0)
        self._file.write(header.getvalue())
        self._file.seek(0, io.SEEK_END)
        self._file.flush()


def rows_in(path: Path, width: int) -> int:
    """How many whole rows a file has, whatever its header says."""
    try:
        with open_regular(path) as file:
            version = np.lib.format.read_magic(file)
            shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return 0
    except Exception:  # NumPy's parser of headers fails in many ways
        raise DataError(f"cannot resume: {path} is no .npy file of embeddings") from None
    if version != (1, 0) or fortran or kind != np.dtype("<f4") or len(shape) != 2:
        raise DataError(f"cannot resume: {path} is no .npy file of embeddings")
    if shape[1] != width:
        raise DataError(f"{path} has embeddings of {shape[1]} numbers, and this model's have {width}")
    return (size - HEADER) // (width * 4)
