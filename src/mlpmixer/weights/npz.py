"""NumPy's .npz, without pickle: a zip of arrays, each with its shape and type before its numbers."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from mlpmixer.errors import BrokenFile
from mlpmixer.text import first_line
from mlpmixer.weights.header import ArrayFile, claim

NUMPY_FLOATS = {
    np.dtype(np.float64): torch.float64,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float16): torch.float16,
    np.dtype("V2"): torch.bfloat16,  # NumPy has no bfloat16; JAX's arrives as two nameless bytes
}


def open_arrays(path: Path) -> ArrayFile:
    """Of a zip whose directory has been found sound."""
    claims: dict[str, Tensor] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                raise BrokenFile(f"{path} holds {member.filename}, which is no NumPy array; it is no checkpoint")
            with archive.open(member) as file:
                shape, dtype = _npy_header(file)
                if dtype.hasobject:
                    raise BrokenFile(f"{path} holds pickled objects in {name}, which could run code; refused")
                if dtype not in NUMPY_FLOATS:
                    raise BrokenFile(f"{path} holds {name} as {first_line(dtype)}; weights are floating-point numbers")
                claims[name] = claim(path, name, shape, NUMPY_FLOATS[dtype])
                if claims[name].nbytes != member.file_size - file.tell():
                    raise BrokenFile(f"{path} claims a shape for {name} that its size does not bear out")
    return ArrayFile(path, "npz", claims, {}, lambda: _read(path, claims))


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype


def _read(path: Path, claims: Mapping[str, Tensor]) -> dict[str, Tensor]:
    arrays = {}
    with np.load(path, allow_pickle=False) as archive:
        for name, claim in claims.items():
            array = np.asarray(archive[name], order="C")
            if claim.dtype == torch.bfloat16:
                array = array.view(np.uint16)
            arrays[name] = torch.from_numpy(array).view(claim.dtype).reshape(claim.shape)
    return arrays


def write(file: IO[bytes], arrays: Mapping[str, Tensor]) -> None:
    np.savez(file, **{name: _numpy(array) for name, array in arrays.items()})  # pyright: ignore[reportArgumentType]


def _numpy(array: Tensor) -> np.ndarray[Any, Any]:
    if array.dtype == torch.bfloat16:
        return array.view(torch.uint16).numpy().view("V2")
    return array.numpy()
