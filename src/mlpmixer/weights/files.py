"""Files of arrays, read with suspicion and written whole: safetensors, .npz, .pth.

A file is first only opened: `open_arrays` gives the names, shapes and types that it claims, and refuses one whose
claims its own size does not bear out. Nothing large is read before the caller has compared those claims with a model.
No format here can run code.
"""

from __future__ import annotations

import json
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from mlpmixer.errors import BrokenFile, MixerError, UsageError
from mlpmixer.files import whole
from mlpmixer.text import first_line
from mlpmixer.weights import npz, pth
from mlpmixer.weights.header import FLOATS, MAX_EXPANSION, MAX_HEADER, ArrayFile, check_names, claim, types_of


def open_arrays(
    path: str | os.PathLike[str], entry: str | None = None, types: Mapping[str, torch.dtype] = FLOATS
) -> ArrayFile:
    """What a checkpoint claims to hold; it is recognized by its content, whatever its name.

    Args:
        path: The file.
        entry: Which set of arrays, where a .pth holds several.
        types: Types that arrays in a .safetensors or .pth file may have, by safetensors' names for them.

    Raises:
        UsageError: There is no such file or entry.
        BrokenFile: It is no checkpoint, or its claims cannot be true.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise BrokenFile(f"{path} is a folder; give the checkpoint file inside it")
        if path.exists() and not path.is_file():  # reading from it might never end
            raise BrokenFile(f"{path} is a pipe or a device; give an ordinary file")
        with path.open("rb") as file:
            start = file.read(512)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except OSError as error:
        raise BrokenFile(f"{path} cannot be read: {error.strerror}") from None
    if not start:
        raise BrokenFile(f"{path} is empty; fetch or copy it again")
    reader = _reader(path, start, entry, types)
    try:
        with warnings.catch_warnings(action="ignore"):  # of a parser that wonders; what matters is refused below
            return reader(path, size)
    except MixerError:
        raise
    except Exception as error:  # whatever a damaged file provokes in a parser is the file's fault
        raise BrokenFile(f"{path} is damaged or no checkpoint: {first_line(error)}") from error


def _reader(
    path: Path, start: bytes, entry: str | None, types: Mapping[str, torch.dtype]
) -> Callable[[Path, int], ArrayFile]:
    strangers = {
        b"\xff\xd8\xff": "a JPEG image",
        b"\x89PNG": "a PNG image",
        b"GIF8": "a GIF image",
        b"%PDF": "a PDF document",
        b"\x1f\x8b": "a gzip file",
        b"\x89HDF": "an HDF5 file",
        b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull` to get the file itself",
    }
    for mark, what in strangers.items():
        if start.startswith(mark):
            raise BrokenFile(f"{path} is no checkpoint but {what}")
    if start.startswith(b"PK\x03\x04"):
        return partial(_open_zip, entry=entry, types=types)
    if start[8:9] == b"{":
        return partial(_open_safetensors, types=types)
    if start.lstrip()[:1] == b"<":
        raise BrokenFile(f"{path} is no checkpoint but a web page; was the download answered by an error?")
    if start.startswith(pth.OLDER):
        return partial(pth.open_arrays, entry=entry, types=types, zipped=False)
    if start[:1] == b"\x80":
        raise BrokenFile(f"{path} is a Python pickle, and loading that could run code; refused")
    raise BrokenFile(f"{path} is no checkpoint: neither safetensors, nor .npz, nor .pth")


def _open_safetensors(path: Path, size: int, types: Mapping[str, torch.dtype]) -> ArrayFile:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, MAX_HEADER):
            raise BrokenFile(f"{path} claims a header of {length:,} bytes; it is cut short or hostile")
        header = json.loads(file.read(length), object_pairs_hook=_once)
    if not isinstance(header, dict):
        raise BrokenFile(f"{path} has a header that describes nothing")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BrokenFile(f"{path} has metadata that is not text")
    claims, position = {}, 0
    check_names(path, header)
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        of_bytes = about["dtype"] == "I8" and f"{name}.scale" in header  # of a quantized model of ours
        known = types_of(name, types)
        if about["dtype"] not in known and not of_bytes:
            raise BrokenFile(f"{path} holds {name} as {first_line(about['dtype'])}; weights are floating-point numbers")
        claims[name] = claim(path, name, about["shape"], torch.int8 if of_bytes else known[about["dtype"]])
        begin, end = about["data_offsets"]
        if begin != position or end - begin != claims[name].nbytes:
            raise BrokenFile(f"{path} places {name} wrongly; it is damaged")
        position = end
    if position != size - 8 - length:
        raise BrokenFile(f"{path} should be {8 + length + position:,} bytes and is {size:,}; fetch or copy it again")
    return ArrayFile(path, "safetensors", claims, metadata, lambda: safetensors.torch.load_file(path))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def _open_zip(path: Path, size: int, entry: str | None, types: Mapping[str, torch.dtype]) -> ArrayFile:
    _check_zip_end(path, size)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        check_names(path, names)
        if len(set(names)) != len(names):
            raise BrokenFile(f"{path} holds two arrays of one name")
        if sum(member.file_size for member in members) > MAX_EXPANSION * size:
            raise BrokenFile(f"{path} claims to unpack to over {MAX_EXPANSION} times its size; it is hostile")
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise BrokenFile(f"{path} is compressed as no checkpoint is; it is damaged or hostile")
    if any(name.endswith("data.pkl") for name in names):
        return pth.open_arrays(path, size, entry, types, zipped=True)
    return npz.open_arrays(path)


def _check_zip_end(path: Path, size: int) -> None:
    """Stops a zip whose directory is not right before its end, or too long for what a checkpoint holds.

    Two readers may find different directories in a zip that is written to deceive: what zipfile then sees here is not
    what torch loads.
    """
    with path.open("rb") as file:
        file.seek(max(size - 98, 0))
        end = file.read(98)
    mark, length, begin, comment = struct.unpack("<4s8x2LH", end[-22:])
    plain = mark == b"PK\x05\x06" and comment == 0
    after = 22
    if end[-42:-38] == b"PK\x06\x07":  # the form for large files, which torch always writes
        mark, length, begin, place = struct.unpack("<4s36x2Q8xQ", end[:72])
        plain = plain and mark == b"PK\x06\x06" and place == size - 98
        after = 98
    if not plain or begin + length != size - after or length > MAX_HEADER:
        raise BrokenFile(f"{path} does not end as a plain zip does; it is cut short, damaged or hostile")


def write(path: str | os.PathLike[str], kind: str, arrays: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """A file of `kind`, which takes its name when all is on disk: a reader never meets half a file."""
    path = Path(path)
    arrays = {name: array.detach().cpu().contiguous() for name, array in arrays.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part, part.open("wb") as file:
            if kind == "safetensors":
                _write_safetensors(file, arrays, metadata)
            elif kind == "npz":
                npz.write(file, arrays)
            else:
                torch.save(arrays, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _write_safetensors(file: IO[bytes], arrays: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """As the library does, which however has the entries of the metadata in any order: here they are sorted, so that
    the same model gives the same bytes."""
    names = {dtype: name for name, dtype in {**FLOATS, "I8": torch.int8}.items()}
    # The widest numbers first: then all lie where a processor wants them.
    order = sorted(arrays, key=lambda name: (-arrays[name].element_size(), names[arrays[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in order:
        begin, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": names[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": [begin, end],
        }
    written = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    file.write(struct.pack("<Q", len(written)) + written)
    for name in order:
        file.write(arrays[name].reshape(-1).view(torch.uint8).numpy().data)
