"""Arrays in files, read with suspicion and written whole: safetensors, NumPy's .npz, PyTorch's .pth.

A file is first only looked at: `look` gives the names, shapes and types that it claims, and refuses one whose claims
its own size does not bear out. Nothing large is read before the caller has compared those claims with a model. No
format here can run code: .npz is read without pickle and .pth with `weights_only=True`, after a look at its pickle.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import pickletools
import re
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mlpmixer.errors import BrokenFile, MixerError, UsageError

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NUMPY_FLOATS = {
    np.dtype(np.float64): torch.float64,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float16): torch.float16,
    np.dtype("V2"): torch.bfloat16,  # NumPy has no bfloat16; JAX's arrives as two nameless bytes
}
MAX_HEADER = 4_000_000  # bytes; the largest model here needs under 200,000, and its class names a million
MAX_ARRAYS = 5_000  # the largest has under 700
MAX_NAME = 100  # letters; the longest has 82
MAX_SIDES = 8  # of an array; the most are 4
MAX_EXPANSION = 20  # a compressed file may claim this many times its size; real weights compress by a tenth
MAX_PICKLED = 2_000_000  # steps and parts, as `_rehearse` counts them; the training state of 700 arrays has 400,000

OLDER_PTH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch.save began with before PyTorch 1.6
# All that a pickle of weights, and of the training state beside them, has to name.
PLAIN = re.compile(
    r"collections (OrderedDict|Counter)|(__builtin__|builtins) set"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch(\.cuda|\.storage)? \w+Storage|torch (Size|device|bool|bfloat16|(float|u?int|complex)\d+\w*)"
)


@dataclass(frozen=True)
class ArrayFile:
    """What a file claims to hold (as meta tensors, without data), and a way to read it."""

    path: Path
    kind: str
    claims: dict[str, Tensor]
    metadata: dict[str, str]
    load: Callable[[], dict[str, Tensor]]

    def read(self) -> dict[str, Tensor]:
        """The arrays, checked to be what was claimed, and finite."""
        try:
            with warnings.catch_warnings(action="ignore"):
                arrays = self.load()
        except MixerError:
            raise
        except Exception as error:
            raise BrokenFile(f"{self.path} is damaged: {first_line(error)}; fetch or copy it again") from error
        for name, array in arrays.items():
            if not bool(torch.isfinite(array).all()):
                raise BrokenFile(f"{self.path} holds NaN or infinite numbers in {name}; it cannot be used")
        return arrays


def look(path: str | os.PathLike[str], entry: str | None = None) -> ArrayFile:
    """Recognises a checkpoint by its content, whatever its name. `entry` chooses among several in one .pth."""
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
    reader = _reader(path, start, entry)
    try:
        with warnings.catch_warnings(action="ignore"):  # of a parser that wonders; what matters is refused below
            return reader(path, size)
    except MixerError:
        raise
    except Exception as error:  # whatever a damaged file provokes in a parser is the file's fault
        raise BrokenFile(f"{path} is damaged or no checkpoint: {first_line(error)}") from error


def _reader(path: Path, start: bytes, entry: str | None) -> Callable[[Path, int], ArrayFile]:
    strangers = {
        b"\xff\xd8\xff": "a JPEG picture",
        b"\x89PNG": "a PNG picture",
        b"GIF8": "a GIF picture",
        b"%PDF": "a PDF document",
        b"\x1f\x8b": "a gzip file",
        b"\x89HDF": "an HDF5 file",
        b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull` to get the file itself",
    }
    for mark, what in strangers.items():
        if start.startswith(mark):
            raise BrokenFile(f"{path} is no checkpoint but {what}")
    if start.startswith(b"PK\x03\x04"):
        return partial(_look_zip, entry=entry)
    if start[8:9] == b"{":
        return _look_safetensors
    if start.lstrip()[:1] == b"<":
        raise BrokenFile(f"{path} is no checkpoint but a web page; was the download answered by an error?")
    if start.startswith(OLDER_PTH):
        return partial(_look_pth, entry=entry, zipped=False)
    if start[:1] == b"\x80":
        raise BrokenFile(f"{path} is a Python pickle, and loading that could run code; refused")
    raise BrokenFile(f"{path} is no checkpoint: neither safetensors, nor .npz, nor .pth")


def _look_safetensors(path: Path, size: int) -> ArrayFile:
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
    _check_names(path, header)
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if about["dtype"] not in FLOATS:
            raise BrokenFile(f"{path} holds {name} as {first_line(about['dtype'])}; weights are floating-point numbers")
        claims[name] = _claim(path, name, about["shape"], FLOATS[about["dtype"]])
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


def _look_zip(path: Path, size: int, entry: str | None) -> ArrayFile:
    _check_zip_end(path, size)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        _check_names(path, names)
        if len(set(names)) != len(names):
            raise BrokenFile(f"{path} holds two arrays of one name")
        if sum(member.file_size for member in members) > MAX_EXPANSION * size:
            raise BrokenFile(f"{path} claims to unpack to over {MAX_EXPANSION} times its size; it is hostile")
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise BrokenFile(f"{path} is compressed as no checkpoint is; it is damaged or hostile")
        if any(name.endswith("data.pkl") for name in names):
            return _look_pth(path, size, entry, zipped=True)
        claims = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                raise BrokenFile(f"{path} holds {member.filename}, which is no NumPy array; it is no checkpoint")
            with archive.open(member) as file:
                shape, dtype = _npy_header(file)
                if dtype.hasobject:
                    raise BrokenFile(f"{path} holds pickled objects in {name}, which could run code; refused")
                if dtype not in NUMPY_FLOATS:
                    raise BrokenFile(f"{path} holds {name} as {first_line(dtype)}; weights are floating-point numbers")
                claims[name] = _claim(path, name, shape, NUMPY_FLOATS[dtype])
                if claims[name].nbytes != member.file_size - file.tell():
                    raise BrokenFile(f"{path} claims a shape for {name} that its size does not bear out")
    return ArrayFile(path, "npz", claims, {}, lambda: _read_npz(path, claims))


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


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype


def _read_npz(path: Path, claims: Mapping[str, Tensor]) -> dict[str, Tensor]:
    arrays = {}
    with np.load(path, allow_pickle=False) as archive:
        for name, claim in claims.items():
            array = np.asarray(archive[name], order="C")
            if claim.dtype == torch.bfloat16:
                array = array.view(np.uint16)
            arrays[name] = torch.from_numpy(array).view(claim.dtype).reshape(claim.shape)
    return arrays


def _look_pth(path: Path, size: int, entry: str | None, *, zipped: bool) -> ArrayFile:
    if path.suffix == ".safetensors":  # torch goes by the name
        raise BrokenFile(f"{path} is a .pth file by its content; rename it")
    if zipped:
        pickled = torch._C.PyTorchFileReader(os.fspath(path)).get_record("data.pkl")  # as torch.load will read it
        _rehearse(path, io.BytesIO(pickled))
    else:
        with path.open("rb") as file:
            for _ in range(5):  # before PyTorch 1.6: a mark, a version, the system, the content, the order of the data
                _rehearse(path, file)
    try:
        # A zip is mapped, not read; the older kind cannot be.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise BrokenFile(f"{path} holds more than plain weights, and loading that could run code; refused") from error
    found = _choose_entry(path, found, entry)
    _check_names(path, found)
    arrays, claims = {}, {}
    for name, array in found.items():
        plain = type(array) in (Tensor, torch.nn.Parameter)
        if not plain or array.layout != torch.strided or array.device.type != "cpu":
            raise BrokenFile(f"{path} holds {name}, which is no plain array; it is no checkpoint of weights")
        if array.dtype not in FLOATS.values():
            raise BrokenFile(f"{path} holds {name} as {array.dtype}; weights are floating-point numbers")
        claims[name] = _claim(path, name, array.shape, array.dtype)
        arrays[name] = array.detach()
    if sum(claim.nbytes for claim in claims.values()) > MAX_EXPANSION * size:
        raise BrokenFile(f"{path} claims over {MAX_EXPANSION} times as many numbers as it holds; it is hostile")
    return ArrayFile(path, "pth", claims, {}, lambda: arrays)


def _rehearse(path: Path, file: BinaryIO) -> None:
    """Goes through a pickle without carrying it out, and stops one that names or costs more than weights do.

    `weights_only=True` runs no code, but a few bytes can ask it for gigabytes, for hours of hashing, or for a tuple so
    deep that Python crashes. They do so by referring to one thing many times, so each is counted wherever it is used.
    """
    stack: list[list[int]] = []  # the size of each thing; in a list, since a thing may grow while others refer to it
    marks: list[int] = []
    memo: dict[Any, list[int]] = {}
    spent = 0
    for step, argument, _ in pickletools.genops(file):
        spent += 1
        if step.name == "GLOBAL" and not PLAIN.fullmatch(str(argument)):
            what = first_line(str(argument).replace(" ", "."))
            raise BrokenFile(f"{path} holds more than plain weights ({what}), and loading that could run code; refused")
        if step.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif step.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif step.name == "MARK":
            marks.append(len(stack))
        else:
            grows = step.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS")
            marked = pickletools.markobject in step.stack_before
            begin = marks.pop() if marked else len(stack) - len(step.stack_before) + grows
            parts = [size for (size,) in stack[begin:]]
            del stack[begin:]
            letters = len(argument) // 8 if isinstance(argument, str | bytes) else 0
            size = min(1 + letters + sum(parts), MAX_PICKLED)
            if grows:
                stack[-1][0] += size
                spent += sum(parts[::2]) if "SET" in step.name else 0  # a key is hashed, a value only referred to
            elif step.stack_after:
                stack.append([size])
                spent += size
        if spent > MAX_PICKLED:
            raise BrokenFile(f"{path} has a pickle that would become far larger than weights are; it is hostile")


def _choose_entry(path: Path, found: Any, entry: str | None) -> dict[str, Tensor]:
    """Training scripts wrap the weights: {"epoch": …, "state_dict": {…}}."""
    if not isinstance(found, dict):
        raise BrokenFile(f"{path} holds a {type(found).__name__}, not named arrays")
    inner = [name for name, value in found.items() if isinstance(value, dict) and _has_arrays(value)]
    there = first_line(", ".join(map(str, inner)) or "none")
    if entry is not None:
        if entry not in inner:
            raise UsageError(f"{path} has no entry '{entry}'; there are: {there}")
        return found[entry]
    if _has_arrays(found) or not inner:
        return found
    weights = [name for name in inner if "optim" not in str(name)]
    if len(weights) != 1:
        raise UsageError(f"{path} holds several sets of weights; say which: entry= one of {there}")
    return found[weights[0]]


def _has_arrays(found: dict[Any, Any]) -> bool:
    return bool(found) and all(isinstance(value, Tensor) for value in found.values())


def _check_names(path: Path, names: Collection[Any]) -> None:
    """Stops what no model has: too many arrays, and names that would not stand in one line on a terminal."""
    if not names:
        raise BrokenFile(f"{path} holds no arrays")
    if len(names) > MAX_ARRAYS:
        raise BrokenFile(f"{path} holds {len(names):,} arrays; no model here has over {MAX_ARRAYS:,}")
    for name in names:
        if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
            raise BrokenFile(f"{path} holds {first_line(repr(name))}; no array of a model is called so")


def _claim(path: Path, name: str, shape: Sequence[Any], dtype: torch.dtype) -> Tensor:
    sound = len(shape) <= MAX_SIDES and all(isinstance(side, int) and side > 0 for side in shape)
    if not sound or math.prod(shape) >= 2**48:
        raise BrokenFile(f"{path} claims the shape {first_line(tuple(shape))} for {name}; it is damaged or hostile")
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def write(path: str | os.PathLike[str], kind: str, arrays: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes beside the final name and moves it there when all is on disk: a reader never meets half a file."""
    path = Path(path)
    arrays = {name: array.detach().contiguous() for name, array in arrays.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                if kind == "safetensors":
                    file.write(safetensors.torch.save(arrays, metadata))
                elif kind == "npz":
                    np.savez(file, **{name: _numpy(array) for name, array in arrays.items()})  # pyright: ignore[reportArgumentType]
                else:
                    torch.save(arrays, file)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _numpy(array: Tensor) -> np.ndarray[Any, Any]:
    if array.dtype == torch.bfloat16:
        return array.view(torch.uint16).numpy().view("V2")
    return array.numpy()


def first_line(said: object) -> str:
    """The start of what a library or a file said, fit for one line of ours and for a terminal."""
    line = (str(said).strip().splitlines() or [type(said).__name__])[0]
    line = line if len(line) <= 160 else line[:159] + "…"
    return "".join(letter if letter.isprintable() else "?" for letter in line)
