"""Files that are broken, or made to do harm, each made out of a few bytes; `CASES` names them all."""

from __future__ import annotations

import functools
import gzip
import io
import json
import math
import os
import pickle
import struct
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

import mlpmixer
from mlpmixer.weights.checkpoint import VERSION

MIXER = {"layers": 1, "channels": 8, "token_hidden": 4, "channel_hidden": 16, "image_size": 8, "patch_size": 4}
# As wide as a known one, since in timm's layout the number of heads shows in nothing else.
VIT = {"layers": 1, "channels": 192, "heads": 3, "hidden": 16, "image_size": 8, "patch_size": 4}

Build = Callable[[Path], bytes]  # the folder is for scratch, and where a payload leaves its trace


def saved(name: str, model: str = "mixer_pico", **how: Any) -> Build:
    """A good file of a very small model, made once."""

    @functools.cache
    def made() -> bytes:
        torch.manual_seed(0)
        options: dict[str, Any] = MIXER if model.startswith("mixer") else VIT
        with tempfile.TemporaryDirectory() as folder:
            file = mlpmixer.save(mlpmixer.create(model, num_classes=3, **options), Path(folder, name), **how)
            return file.read_bytes()

    return lambda _: made()


OURS = saved("ours.safetensors", classes=("cat", "dog", "otter"))
LINEN = saved("linen.npz")
TIMM = saved("timm.safetensors", layout="timm")
GOOD = {model: saved("good.safetensors", model) for model in ("mixer_pico", "vit_ti32")}

# Building blocks.


def timm(folder: Path, changes: Mapping[Any, Any] | None = None) -> dict[Any, Any]:
    """Arrays of a small Mixer as timm names them, with some replaced, added, or (None) left out."""
    arrays = safetensors.torch.load(TIMM(folder)) | dict(changes or {})
    return {name: array for name, array in arrays.items() if array is not None}


def linen(folder: Path, changes: Mapping[str, np.ndarray[Any, Any]] | None = None) -> dict[str, bytes]:
    """Members of a small Mixer's .npz as the authors name them, with some replaced or added."""
    with np.load(io.BytesIO(LINEN(folder))) as archive:
        arrays = dict(archive) | dict(changes or {})
    return {f"{name}.npy": npy(array) for name, array in arrays.items()}


def safe(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(written) if length is None else length) + written + data


def entry(shape: Any = (4,), dtype: Any = "F32", offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def safe_entry(shape: Any = (4,), dtype: Any = "F32", offsets: Any = (0, 16), *, name: str = "w") -> bytes:
    return safe({name: entry(shape, dtype, offsets)}, bytes(16))


def safe_arrays(arrays: Mapping[str, Tensor], about: str | None = None) -> bytes:
    metadata = None if about is None else {"mlpmixer": about}
    return safetensors.torch.save({name: array.contiguous() for name, array in arrays.items()}, metadata)


def ours(changes: Mapping[str, Any], model: str = "mixer_pico") -> Build:
    """Our own file with parts of what it says of itself replaced; "config.layers" is a part of a part."""

    def build(folder: Path) -> bytes:
        whole = GOOD[model](folder)
        (length,) = struct.unpack("<Q", whole[:8])
        header = json.loads(whole[8 : 8 + length])
        about = json.loads(header["__metadata__"]["mlpmixer"])
        for place, value in changes.items():
            *parts, last = place.split(".")
            functools.reduce(lambda inner, part: inner[part], parts, about)[last] = value
        header["__metadata__"]["mlpmixer"] = json.dumps(about)
        return safe(header, whole[8 + length :])

    return build


def ours_saying(about: str) -> Build:
    return lambda folder: safe_arrays(timm(folder), about)


def wrong_in_every_way(folder: Path) -> bytes:
    """Our own file that lacks arrays, has others, and misshapes the rest, all with long names and shapes."""
    whole = ours({"config.layers": 400, "config.channels": 10**12, "name": "m" * 1000})(folder)
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    for i in range(50):
        header[f"{i:02}{'w' * 98}"] = entry((1,) * 7 + (4,), offsets=(len(data), len(data) + 16))
        data += bytes(16)
    return safe(header, data)


def npz(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(array: np.ndarray[Any, Any], *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # of a record with objects
        np.lib.format.write_array(file, array, allow_pickle=pickled)
    return file.getvalue()


def npz_of(array: np.ndarray[Any, Any], *, pickled: bool = False) -> bytes:
    return npz({"w.npy": npy(array, pickled=pickled)})


def npz_header(written: str, data: bytes = b"", *, length: int | None = None) -> bytes:
    """An .npz whose array has any header."""
    header = struct.pack("<I", len(written) if length is None else length) + written.encode("latin-1")
    return npz({"w.npy": b"\x93NUMPY\x02\x00" + header + data})


def npz_shape(shape: str, data: bytes = bytes(64)) -> bytes:
    return npz_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n", data)


def altered(whole: bytes, place: int, form: str, value: int, *, both: bool = False) -> bytes:
    """The zip with a field of its first directory entry changed, and of the member's own header if `both`."""
    changed, directory = bytearray(whole), whole.index(b"PK\x01\x02")
    struct.pack_into(form, changed, directory + place, value)
    if both:
        struct.pack_into(form, changed, place - 2, value)
    return bytes(changed)


def one_member(compression: int = zipfile.ZIP_STORED) -> bytes:
    return npz({"w.npy": npy(np.zeros(64, np.float32))}, compression)


def twice(name: str) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, npy(np.zeros(4, np.float32)))
        archive.writestr(name, npy(np.ones(4, np.float32)))
    return file.getvalue()


def zip_end(count: int, length: int, begin: int) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, length, begin, 0)


def many_members(count: int) -> bytes:
    """A directory that lists one member again and again."""
    whole = npz({"w.npy": b""})
    begin, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    directory = whole[begin:end] * count
    return whole[:begin] + directory + zip_end(60_000, len(directory), begin)


def two_faced(shown: bytes, loaded: bytes) -> bytes:
    """A zip in which zipfile finds the directory of one, right before the end, and torch that of the other."""
    assert len(shown) == len(loaded)
    begin, end = shown.index(b"PK\x01\x02"), shown.index(b"PK\x05\x06")
    directory = bytearray(shown[begin:end])
    count, place = 0, 0
    while (place := directory.find(b"PK\x01\x02", place)) >= 0:
        count, place = count + 1, place + 4
    return loaded[:end] + shown[:begin] + bytes(directory) + zip_end(count, len(directory), begin)


def bz2_bomb() -> bytes:
    """A member that says it unpacks to 192 bytes and does so to 400 MB."""
    header = npz_shape("(16,)")
    start = header[header.index(b"\x93NUMPY") : header.index(b"PK\x01\x02")]
    whole = npz({"w.npy": start + bytes(400_000_000)}, zipfile.ZIP_BZIP2)
    return altered(whole, 24, "<I", len(start))


def pth(content: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def torch_zip(pickled: bytes, changes: Mapping[str, bytes] | None = None, compression: int = 0) -> bytes:
    """A .pth with any pickle."""
    members = {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", "data/0": bytes(64)} | dict(
        changes or {}
    )
    return npz({f"archive/{name}": content for name, content in members.items()}, compression)


def older(pickled: bytes, keys: tuple[str, ...] = (), data: bytes = b"", *, system: Any = None) -> bytes:
    """A .pth as before PyTorch 1.6, with any pickle."""
    start = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, system]
    return b"".join([*(pickle.dumps(part, 2) for part in start), pickled, pickle.dumps([*keys], 2), data])


def steps(*parts: bytes) -> bytes:
    """A pickle, instruction by instruction."""
    return b"\x80\x02" + b"".join(parts) + b"."


def text(letters: str) -> bytes:
    return b"X" + struct.pack("<I", len(letters)) + letters.encode()


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def put(place: int) -> bytes:
    return b"r" + struct.pack("<I", place)


def get(place: int) -> bytes:
    return b"j" + struct.pack("<I", place)


def array_steps(
    stored: int = 16, size: int = 16, stride: int = 1, offset: int = 0, key: bytes = text("0"), last: bytes = b""
) -> bytes:
    """A pickle of {"w": an array of 16 numbers}, every number of which is to be believed."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + key + text("cpu") + number(stored) + last + b"tQ"
    sizes = number(offset) + number(size) + b"\x85" + number(stride) + b"\x85"
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return steps(b"}", text("w"), b"ctorch._utils\n_rebuild_tensor_v2\n(", storage, sizes, hooks, b"tRs")


def older_array(stored: int = 16, size: int = 16) -> bytes:
    return older(array_steps(stored, size, last=b"N"), ("0",), struct.pack("<q", 16) + bytes(64))


BYTES_BOMB = steps(b"cbuiltins\nbytearray\n", number(600_000_000), b"\x85R")
DEEP_KEY = steps(b"})", b"\x85" * 900_000, b"Ns")
WIDE_KEY = steps(
    b"}", put(99), text("a"), put(0), *(get(i) * 2 + b"\x86" + put(i + 1) for i in range(60)), get(99), get(60), b"Ns"
)
LONG_KEY = array_steps(key=b"(" + text("w" * 1_000_000) + put(0) + get(0) * 599 + b"t")
PAIRS = b"](" + b"".join(text(f"{i:07}") + b"N\x86" for i in range(20_000)) + b"e" + put(0)
COPIES = steps(PAIRS, *[b"ccollections\nOrderedDict\n" + get(0) + b"\x85R"] * 300)


class Payload:
    """Unpickled, it makes a call."""

    def __init__(self, call: Callable[..., Any], argument: str):
        self.call, self.argument = call, argument

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return self.call, (self.argument,)


def touch(folder: Path) -> Payload:
    return Payload(os.system, f"touch {folder}/canary")


def execute(folder: Path) -> Payload:
    return Payload(exec, f"open('{folder}/canary', 'w').close()")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)


class Marked(Tensor):
    """A kind of array of its own."""


def scripted() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), file)
    return file.getvalue()


def quantized() -> Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)


def compressed_rows() -> Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.eye(4).to_sparse_csr()


def spoilt(value: float) -> Tensor:
    array = torch.ones(8)
    array[5] = value
    return array


def image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(file, kind)
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return file.getvalue()


# The files. First what is no checkpoint at all.

STRANGERS: dict[str, Build] = {
    "empty": lambda _: b"",
    "one byte": lambda _: b"\x80",
    "zeros": lambda _: bytes(4096),
    "ones": lambda _: b"\xff" * 4096,
    "JPEG": lambda _: image("JPEG"),
    "PNG": lambda _: image("PNG"),
    "GIF": lambda _: image("GIF"),
    "TIFF": lambda _: image("TIFF"),
    "WebP": lambda _: image("WEBP"),
    "PDF": lambda _: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "web page": lambda _: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "web page after blank lines": lambda _: b"\n\n  <html></html>",
    "JSON": lambda _: b'{"error": "rate limit exceeded"}',
    "text": lambda _: b"Please sign in to download this file.\n",
    "Git LFS pointer": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "gzip": lambda folder: gzip.compress(LINEN(folder)),
    "tar": lambda _: tar(),
    "HDF5": lambda _: b"\x89HDF\r\n\x1a\n" + bytes(512),
    "program": lambda _: Path(sys.executable).resolve().read_bytes()[:8192],
    "single .npy": lambda _: npy(np.zeros(4, np.float32)),
    "single .npy with a payload": lambda folder: npy(np.array([touch(folder)]), pickled=True),
    "pickle with a payload, protocol 0": lambda folder: pickle.dumps(touch(folder), 0),
    "pickle with a payload, protocol 2": lambda folder: pickle.dumps(touch(folder), 2),
    "pickle with a payload, protocol 4": lambda folder: pickle.dumps(touch(folder), 4),
    "pickle with a payload, protocol 5": lambda folder: pickle.dumps({"w": execute(folder)}, 5),
    "pickle of plain numbers": lambda _: pickle.dumps({"w": [1.0, 2.0]}, 2),
}

SAFETENSORS: dict[str, Build] = {
    "a pickle": lambda folder: pickle.dumps(touch(folder), 2),
    "a .pth": lambda folder: pth(timm(folder)),
    "an old .pth with a payload": lambda folder: pth({"w": touch(folder)}, zipped=False),
    "header of 2^63 bytes": lambda _: safe(b"{}", length=2**63),
    "header of 2^64 - 1 bytes": lambda _: safe(b"{}", length=2**64 - 1),
    "header of 10 GB": lambda _: safe(b"{}", length=10**10),
    "header a byte too long": lambda _: safe(b"{}", length=3),
    "header of one byte": lambda _: safe(b"{", length=1),
    "header of 10 MB": lambda _: safe(json.dumps({"w": entry()}).encode().ljust(10_000_000), bytes(16)),
    "header of empty lists": lambda _: safe(b'{"w": [' + b"[]," * 5_000_000 + b"[]]}"),
    "header no JSON": lambda _: safe(b"{'w': 1}"),
    "header not UTF-8": lambda _: safe(b'{"\xff\xfe": 1}'),
    "header without arrays": lambda _: safe({}),
    "header with metadata only": lambda _: safe({"__metadata__": {"format": "pt"}}),
    "header of nested lists": lambda _: safe(b'{"w": ' + b"[" * 100_000),
    "header of nested objects": lambda _: safe(b'{"w":' * 100_000),
    "header with an endless number": lambda _: safe(b'{"w": ' + b"9" * 100_000 + b"}"),
    "one name twice": lambda _: safe(b'{"w": %b, "w": %b}' % ((json.dumps(entry()).encode(),) * 2), bytes(16)),
    "metadata twice": lambda _: safe(b'{"__metadata__": {}, "__metadata__": {}}'),
    "metadata a number": lambda _: safe({"__metadata__": {"mlpmixer": 5}, "w": entry()}, bytes(16)),
    "metadata a list": lambda _: safe({"__metadata__": ["pt"], "w": entry()}, bytes(16)),
    "metadata null": lambda _: safe({"__metadata__": None, "w": entry()}, bytes(16)),
    "array a number": lambda _: safe({"w": 5}, bytes(16)),
    "array null": lambda _: safe({"w": None}, bytes(16)),
    "arrays overlap": lambda _: safe({"v": entry(), "w": entry(offsets=(8, 24))}, bytes(24)),
    "arrays share bytes": lambda _: safe({"v": entry(), "w": entry()}, bytes(16)),
    "gap": lambda _: safe({"v": entry(), "w": entry(offsets=(20, 36))}, bytes(36)),
    "bytes at the end": lambda _: safe({"w": entry()}, bytes(4096)),
    "offsets beyond the end": lambda _: safe_entry(offsets=(0, 10**12)),
    "offsets negative": lambda _: safe_entry(offsets=(-16, 0)),
    "offsets backwards": lambda _: safe_entry(offsets=(16, 0)),
    "offsets fractions": lambda _: safe_entry(offsets=(0.5, 16.5)),
    "offsets text": lambda _: safe_entry(offsets=("0", "16")),
    "offsets of two kinds": lambda _: safe({"v": entry(offsets="0"), "w": entry()}, bytes(16)),
    "offsets three": lambda _: safe_entry(offsets=(0, 16, 32)),
    "offsets missing": lambda _: safe({"w": {"dtype": "F32", "shape": [4]}}, bytes(16)),
    "type missing": lambda _: safe({"w": {"shape": [4], "data_offsets": [0, 16]}}, bytes(16)),
    "shape missing": lambda _: safe({"w": {"dtype": "F32", "data_offsets": [0, 16]}}, bytes(16)),
    "shape of 10 GB": lambda _: safe_entry((50_000, 50_000), offsets=(0, 10**10)),
    "shape of 10^18": lambda _: safe_entry((10**9, 10**9), offsets=(0, 4 * 10**18)),
    "shape beyond 2^64": lambda _: safe_entry((2**33, 2**33), offsets=(0, 0)),
    "shape with nothing in it": lambda _: safe_entry((0, 10**12), offsets=(0, 0)),
    "shape negative": lambda _: safe_entry((-2, -2)),
    "shape a fraction": lambda _: safe_entry((4.0,)),
    "shape a number": lambda _: safe_entry(4),
    "shape of a million sides": lambda _: safe_entry([9] * 1_000_000),
    "type int64": lambda _: safe_arrays({"w": torch.zeros(4, dtype=torch.int64)}),
    "type bool": lambda _: safe_arrays({"w": torch.zeros(4, dtype=torch.bool)}),
    "type complex": lambda _: safe_arrays({"w": torch.zeros(4, dtype=torch.complex64)}),
    "type float8": lambda _: safe_arrays({"w": torch.zeros(4, dtype=torch.float8_e4m3fn)}),
    "type unknown": lambda _: safe_entry(dtype="F4096"),
    "type a list": lambda _: safe_entry(dtype=["F32"]),
    "type a page of text": lambda _: safe_entry(dtype="\x1b[31mF\n" * 100_000),
    "name with a line break": lambda _: safe_entry(name="a\nb"),
    "name that moves the cursor": lambda _: safe_entry(name="\x1b[2Jgone"),
    "name of half a letter": lambda _: safe(b'{"\\ud800": %b}' % json.dumps(entry()).encode(), bytes(16)),
    "name of a megabyte": lambda _: safe_entry(name="w" * 1_000_000),
    "long names that do not fit": lambda folder: safe_arrays(
        timm(folder, {f"{i:02}{'w' * 98}": torch.zeros((1,) * 7 + (4,)) for i in range(50)})
    ),
    "6,000 arrays": lambda _: safe_arrays({f"w{i}": torch.zeros(1) for i in range(6_000)}),
    "NaN": lambda folder: safe_arrays(timm(folder, {"norm.weight": spoilt(math.nan)})),
    "infinity": lambda folder: safe_arrays(timm(folder, {"norm.bias": spoilt(-math.inf)})),
    "NaN in half precision": lambda folder: safe_arrays(timm(folder, {"norm.bias": spoilt(math.nan).half()})),
    "cut within the length": lambda folder: safe_arrays(timm(folder))[:5],
    "cut after the length": lambda folder: safe_arrays(timm(folder))[:8],
    "cut within the header": lambda folder: safe_arrays(timm(folder))[:300],
    "cut within the data": lambda folder: safe_arrays(timm(folder))[:-100],
    "cut by one byte": lambda folder: safe_arrays(timm(folder))[:-1],
}

NPZ: dict[str, Build] = {
    "payload": lambda folder: npz_of(np.array([touch(folder)]), pickled=True),
    "payload among weights": lambda folder: npz(
        linen(folder) | {"more.npy": npy(np.array([execute(folder)]), pickled=True)}
    ),
    "payload in a record": lambda folder: npz_of(
        np.array([(1, touch(folder))], [("x", "f4"), ("y", "O")]), pickled=True
    ),
    "type int64": lambda _: npz_of(np.zeros(4, np.int64)),
    "type bool": lambda _: npz_of(np.zeros(4, np.bool_)),
    "type complex": lambda _: npz_of(np.zeros(4, np.complex64)),
    "type long double": lambda _: npz_of(np.zeros(4, np.longdouble)),
    "type text": lambda _: npz_of(np.array(["weights"])),
    "type date": lambda _: npz_of(np.array(["2021-05-04"], "M8[D]")),
    "type big-endian": lambda _: npz_of(np.zeros(4, ">f4")),
    "type of three bytes": lambda _: npz_of(np.zeros(4, "V3")),
    "type a record of 200 fields": lambda _: npz_of(np.zeros(4, [(f"field{i}", "f4") for i in range(200)])),
    "type nested deep": lambda _: npz_header(f"{{'descr': {'[' * 90}{']' * 90}, 'fortran_order': 0, 'shape': ()}}\n"),
    "shape of 10 GB": lambda _: npz_shape("(50000, 50000)"),
    "shape of 10^18": lambda _: npz_shape("(1000000000, 1000000000)"),
    "shape beyond 2^64": lambda _: npz_shape("(4294967296, 4294967296)", b""),
    "shape with nothing in it": lambda _: npz_shape("(0, 5)", b""),
    "shape negative": lambda _: npz_shape("(-4, -4)"),
    "shape text": lambda _: npz_shape("'44'"),
    "shape of 3,000 sides": lambda _: npz_shape(f"({'1,' * 3000})", bytes(4)),
    "shape as Python 2 wrote it": lambda _: npz_shape("(16L,)"),
    "header of 4 GB": lambda _: npz_header("{", length=2**32 - 1),
    "header of 1 MB": lambda _: npz_header(" " * 1_000_000),
    "header that is code": lambda folder: npz_header(f"__import__('os').system('touch {folder}/canary')\n"),
    "header of open brackets": lambda _: npz_header("(" * 9_000),
    "header of signs": lambda _: npz_header("-" * 9_000 + "1"),
    "header a number": lambda _: npz_header("5"),
    "header with more": lambda _: npz_shape("(16,), 'more': 1"),
    "header with odd spelling": lambda _: npz_header("{'\\d': 1if 1else 2}"),
    "version of the future": lambda _: npz({"w.npy": b"\x93NUMPY\x09\x00" + bytes(64)}),
    "member no array": lambda _: npz({"w.npy": b"not an array"}),
    "member empty": lambda _: npz({"w.npy": b""}),
    "member cut short": lambda _: npz({"w.npy": npy(np.zeros(64, np.float32))[:-4]}),
    "member too long": lambda _: npz({"w.npy": npy(np.zeros(64, np.float32)) + b"more"}),
    "member no .npy": lambda _: npz({"notes.txt": b"hello"}),
    "Word document": lambda _: npz({"[Content_Types].xml": b"<xml/>", "word/document.xml": b"<xml/>"}),
    "zip without members": lambda _: npz({}),
    "name that climbs": lambda _: npz({"../../canary.npy": npy(np.zeros(4, np.float32))}),
    "name that climbs, no array": lambda _: npz({"../../canary": b"x"}),
    "name with a line break": lambda _: npz({"a\nb.npy": npy(np.zeros(4, np.float32))}),
    "name of 60 kB": lambda _: npz({f"{'w' * 60_000}.npy": npy(np.zeros(4, np.float32))}),
    "one name twice": lambda _: twice("w.npy"),
    "6,000 arrays": lambda _: npz({f"{i}.npy": b"" for i in range(6_000)}),
    "500,000 members": lambda _: many_members(500_000),
    "deflate bomb": lambda folder: npz(
        linen(folder, {"head/kernel": np.zeros((8, 2**19), "f4"), "head/bias": np.zeros(2**19, "f4")}),
        zipfile.ZIP_DEFLATED,
    ),
    "bzip2 bomb": lambda _: bz2_bomb(),
    "compressed by lzma": lambda _: one_member(zipfile.ZIP_LZMA),
    "compressed in an unknown way": lambda _: altered(one_member(), 10, "<H", 77, both=True),
    "encrypted": lambda _: altered(one_member(), 8, "<H", 1, both=True),
    "size too low": lambda _: altered(one_member(), 24, "<I", 130),
    "size too high": lambda _: altered(one_member(), 24, "<I", 1000),
    "size of 4 GB": lambda _: altered(one_member(), 24, "<I", 2**32 - 2),
    "place beyond the end": lambda _: altered(one_member(), 42, "<I", 10**6),
    "wrong checksum": lambda folder: altered(npz(linen(folder)), 16, "<I", 12345),
    "bytes at the end": lambda folder: LINEN(folder) + bytes(100),
    "bytes before": lambda folder: b"PK\x03\x04" + bytes(100) + LINEN(folder),
    "comment": lambda folder: LINEN(folder)[:-2] + struct.pack("<H", 4) + b"code",
    "NaN": lambda folder: npz(linen(folder, {"pre_head_layer_norm/scale": spoilt(math.nan).numpy()})),
    "infinity": lambda folder: npz(linen(folder, {"pre_head_layer_norm/bias": spoilt(math.inf).numpy()})),
    "cut within the first member": lambda folder: LINEN(folder)[:100],
    "cut within the data": lambda folder: LINEN(folder)[:3000],
    "cut within the directory": lambda folder: LINEN(folder)[:-200],
    "cut by one byte": lambda folder: LINEN(folder)[:-1],
}

PTH: dict[str, Build] = {
    "payload": lambda folder: pth({"w": touch(folder)}),
    "payload among weights": lambda folder: pth(timm(folder, {"more": execute(folder)})),
    "payload, old form": lambda folder: pth(touch(folder), zipped=False),
    "payload among weights, old form": lambda folder: pth(timm(folder, {"more": execute(folder)}), zipped=False),
    "payload in the system's place, old form": lambda folder: older(b"", system=touch(folder)),
    "payload of protocol 4": lambda folder: torch_zip(pickle.dumps({"w": touch(folder)}, 4)),
    "payload hidden from zipfile": lambda folder: two_faced(
        torch_zip(array_steps().ljust(400)), torch_zip(pickle.dumps(touch(folder), 2).ljust(400))
    ),
    "bytes bomb": lambda _: torch_zip(BYTES_BOMB),
    "bytes bomb, old form": lambda _: older(BYTES_BOMB),
    "bytes bomb hidden from zipfile": lambda _: two_faced(
        torch_zip(array_steps().ljust(400)), torch_zip(BYTES_BOMB.ljust(400))
    ),
    "key too deep": lambda _: torch_zip(DEEP_KEY),
    "key too deep, old form": lambda _: older(DEEP_KEY),
    "key with 2^60 parts": lambda _: torch_zip(WIDE_KEY),
    "key with 2^60 parts, old form": lambda _: older(WIDE_KEY),
    "key of 600 MB": lambda _: torch_zip(LONG_KEY),
    "300 copies of a long list": lambda _: torch_zip(COPIES),
    "deflate bomb beside the data": lambda _: torch_zip(
        array_steps(), {"byteorder": bytes(400_000_000)}, zipfile.ZIP_DEFLATED
    ),
    "deflate bomb in the pickle": lambda _: torch_zip(array_steps() + bytes(100_000_000), {}, zipfile.ZIP_DEFLATED),
    "whole network": lambda _: pth(Network()),
    "TorchScript": lambda _: scripted(),
    "optimizer's state": lambda _: pth(torch.optim.SGD([nn.Parameter(torch.ones(4))], 0.1).state_dict()),
    "optimizer's arrays": lambda folder: pth({"optimizer": timm(folder)}),
    "two sets of weights": lambda folder: pth({"model": timm(folder), "a\nb" * 1000: timm(folder)}),
    "list": lambda _: pth([torch.zeros(4)]),
    "tuple": lambda _: pth((torch.zeros(4),)),
    "array": lambda _: pth(torch.zeros(4)),
    "None": lambda _: pth(None),
    "empty dictionary": lambda _: pth({}),
    "text for an array": lambda folder: pth(timm(folder, {"head.bias": "zeros"})),
    "number for an array": lambda folder: pth(timm(folder, {"head.bias": 0.0})),
    "dictionary that holds itself": lambda _: torch_zip(steps(b"}", put(0), text("w"), get(0), b"s")),
    "list that holds itself": lambda _: torch_zip(steps(b"]", put(0), get(0), b"a")),
    "sparse array": lambda folder: pth(timm(folder, {"head.weight": torch.zeros(3, 8).to_sparse()})),
    "compressed rows": lambda _: pth({"w": compressed_rows()}),
    "quantized array": lambda _: pth({"w": quantized()}),
    "array on no device": lambda _: pth({"w": torch.empty(4, device="meta")}),
    "array of a kind of its own": lambda _: pth({"w": torch.ones(4).as_subclass(Marked)}),
    "array with attributes": lambda _: torch_zip(array_steps()[:-2] + b"}" + text("data") + b"Nsbs."),
    "NumPy number": lambda _: pth({"accuracy": np.float64(0.7)}),
    "NumPy array": lambda _: pth({"w": np.zeros(4)}),
    "type int64": lambda _: pth({"w": torch.zeros(4, dtype=torch.int64)}),
    "type bool": lambda _: pth({"w": torch.zeros(4, dtype=torch.bool)}),
    "type complex": lambda _: pth({"w": torch.zeros(4, dtype=torch.complex64)}),
    "type float8": lambda _: pth({"w": torch.zeros(4, dtype=torch.float8_e5m2)}),
    "byte order unknown": lambda _: torch_zip(array_steps(), {"byteorder": b"middle"}),
    "names numbers": lambda _: pth({0: torch.zeros(4), 1: torch.zeros(4)}),
    "names tuples": lambda _: pth({("w",) * 3000: torch.zeros(4)}),
    "name an array": lambda _: pth({torch.zeros(4): torch.zeros(4)}),
    "name with a line break": lambda _: pth({"a\nb": torch.zeros(4)}),
    "name of a megabyte": lambda _: pth({"w" * 1_000_000: torch.zeros(4)}),
    "6,000 arrays": lambda _: pth({f"w{i}": torch.zeros(1) for i in range(6_000)}, zipped=False),
    "one number for 10 GB": lambda folder: pth(timm(folder, {"head.weight": torch.zeros(1).expand(3 * 10**8, 8)})),
    "one number for many": lambda folder: pth(
        timm(folder, {"head.weight": torch.zeros(1).expand(10**6, 8), "head.bias": torch.zeros(1).expand(10**6)})
    ),
    "shape of 10^18": lambda _: torch_zip(array_steps(size=10**18, stride=0)),
    "shape beyond 2^64": lambda _: torch_zip(array_steps(size=2**70, stride=0)),
    "shape of 10 GB": lambda _: torch_zip(array_steps(size=25 * 10**8)),
    "shape negative": lambda _: torch_zip(array_steps(size=-4)),
    "shape with nothing in it": lambda _: torch_zip(array_steps(size=0)),
    "stride negative": lambda _: torch_zip(array_steps(stride=-1)),
    "offset beyond the end": lambda _: torch_zip(array_steps(offset=10**12)),
    "record of 10 GB": lambda _: torch_zip(array_steps(stored=25 * 10**8, size=25 * 10**8)),
    "record of 10^18": lambda _: torch_zip(array_steps(stored=10**18)),
    "record of less than nothing": lambda _: torch_zip(array_steps(stored=-16)),
    "record missing": lambda _: torch_zip(array_steps(key=text("7"))),
    "record outside": lambda _: torch_zip(array_steps(key=text("../../../../etc/passwd"))),
    "record shorter than its array": lambda _: torch_zip(array_steps(), {"data/0": bytes(8)}),
    "data of 10 GB, old form": lambda _: older_array(stored=25 * 10**8, size=25 * 10**8),
    "data of 10^18, old form": lambda _: older_array(stored=10**18, size=10**18),
    "shape of 10 GB, old form": lambda _: older_array(size=25 * 10**8),
    "data missing, old form": lambda _: older(array_steps(last=b"N"), ("0",)),
    "data cut short, old form": lambda _: older_array()[:-8],
    "a tar at the same time": lambda _: older(array_steps(last=b"N"), ("0",)).ljust(512, b"\0")[:512] + tar(),
    "mark only, old form": lambda _: older(b"")[:15],
    "no pickle": lambda _: torch_zip(b"these are not the weights"),
    "pickle empty": lambda _: torch_zip(b""),
    "pickle without end": lambda _: torch_zip(b"\x80\x02}"),
    "pickle that takes from nothing": lambda _: torch_zip(steps(b"ssss")),
    "pickle that asks for 4 GB": lambda _: torch_zip(b"\x80\x02X\xff\xff\xff\xff"),
    "pickle that asks for 2^62 bytes, old form": lambda _: older(b"\x80\x04\x8d" + struct.pack("<Q", 2**62)),
    "two pickles": lambda _: npz({"a/data.pkl": array_steps(), "b/data.pkl": BYTES_BOMB, "a/version": b"3\n"}),
    "pickle in no folder": lambda _: npz({"data.pkl": array_steps(), "version": b"3\n"}),
    "version of the future": lambda _: torch_zip(array_steps(), {"version": b"999\n"}),
    "version no number": lambda _: torch_zip(array_steps(), {"version": b"three"}),
    "NaN": lambda folder: pth(timm(folder, {"norm.weight": spoilt(math.nan)})),
    "infinity, old form": lambda folder: pth(timm(folder, {"norm.weight": spoilt(math.inf)}), zipped=False),
    "cut within the pickle": lambda folder: pth(timm(folder))[:500],
    "cut within the data": lambda folder: pth(timm(folder))[:4000],
    "cut within the directory": lambda folder: pth(timm(folder))[:-200],
    "cut by one byte": lambda folder: pth(timm(folder))[:-1],
    "cut, old form": lambda folder: pth(timm(folder), zipped=False)[:-100],
    "cut within the pickle, old form": lambda folder: pth(timm(folder), zipped=False)[:500],
}

# Files that are sound in themselves and describe no model.

RANGE = {"low": -1e308, "high": 1e308}

RESNET = {"units": [1], "channels": 32, "operator": "convolution"}


def halonet(changes: dict[str, Any]) -> Build:
    sizes = {"channels": 8, "units": [1], "block_size": 4, "halo": 1, "final_channels": 0, "image_size": [8, 8]}
    return ours({"family": "halonet", "config": {**sizes, "value_ratio": 1.0, "output_ratio": 1.0, **changes}})


HEADERS: dict[str, Build] = {
    "10^9 layers": ours({"config.layers": 10**9}),
    "10^9 layers of ViT": ours({"config.layers": 10**9}, "vit_ti32"),
    "400 layers": ours({"config.layers": 400}),
    "no layers": ours({"config.layers": 0}),
    "layers a list": ours({"config.layers": [1]}),
    "layers null": ours({"config.layers": None}),
    "layers infinite": ours({"config.layers": math.inf}),
    "10^12 channels": ours({"config.channels": 10**12}),
    "10^30 channels": ours({"config.channels": 10**30}),
    "channels negative": ours({"config.channels": -8}),
    "channels text": ours({"config.channels": "eight"}),
    "10^15 classes": ours({"config.num_classes": 10**15}),
    "10^19 classes": ours({"config.num_classes": 10**19}),
    "patches of 10^9 pixels": ours({"config.patch_size": 10**9}),
    "image of 10^18 pixels": ours({"config.image_size": [10**9, 10**9]}),
    "image of 10^4000 pixels": ours({"config.image_size": [10**4000, 10**4000]}),
    "image of 10^4000 pixels for ViT": ours({"config.image_size": [10**4000, 10**4000]}, "vit_ti32"),
    "image of three sides": ours({"config.image_size": [8, 8, 8]}),
    "pyramid of 100,000 steps": ours({"config.pyramid": list(range(100_000)), "config.layers": 100_000}),
    "pyramid of one step": ours({"config.pyramid": [0]}),
    "GELU unknown": ours({"config.gelu": "exact"}),
    "heads that do not divide": ours({"config.heads": 5}, "vit_ti32"),
    "10^9 units of BiT": ours({"family": "bit", "config": {"units": [10**9], "width": 1}}),
    "10^6 stages of BiT": ours({"family": "bit", "config": {"units": [1] * 10**6, "width": 1}}),
    "400 stages of BiT": ours({"family": "bit", "config": {"units": [1] * 400, "width": 1}}),
    "10^18 times as wide a BiT": ours({"family": "bit", "config": {"units": [1], "width": 10**18}}),
    "10^9 units of HaloNet": halonet({"units": [10**9]}),
    "10^6 stages of HaloNet": halonet({"units": [1] * 10**6}),
    "10^400 channels of HaloNet": halonet({"channels": 10**400}),
    "halo of 10^18 pixels": halonet({"halo": 10**18}),
    "block of 10^30 pixels": halonet({"block_size": 10**30}),
    "values 10^300 times as wide": halonet({"value_ratio": 1e300}),
    "values NaN times as wide": halonet({"value_ratio": math.nan}),
    "activation unknown": halonet({"activation": "exact"}),
    "10^30 heads": halonet({"heads": [10**30]}),
    "10^9 units of ResNet": ours({"family": "resnet", "config": {**RESNET, "units": [10**9]}}),
    "400 stages of ResNet": ours({"family": "resnet", "config": {**RESNET, "units": [1] * 400}}),
    "10^18 channels of ResNet": ours({"family": "resnet", "config": {**RESNET, "channels": 32 * 10**18}}),
    "operator unknown": ours({"family": "resnet", "config": {**RESNET, "operator": "convolutoin"}}),
    "operator in 10^18 units": ours({"family": "resnet", "config": {**RESNET, "operator_units": [10**18]}}),
    "window of 10^9": ours({"family": "resnet", "config": {**RESNET, "operator": "lambda", "window": 10**9 + 1}}),
    "positions of an image of 10^18 pixels": ours(
        {"family": "resnet", "config": {**RESNET, "operator": "lambda_table", "image_size": [10**9, 10**9]}}
    ),
    "field unknown": ours({"config.shortcut": True}),
    "field missing": lambda folder: OURS(folder).replace(b'\\"channels\\"', b'\\"flannels\\"'),
    "config null": ours({"config": None}),
    "config a list": ours({"config": [1, 2, 3]}),
    "config of another family": ours({"family": "vit"}),
    "family unknown": ours({"family": "perceptron"}),
    "family a list": ours({"family": ["mixer"]}),
    "version of the future": ours({"version": VERSION + 1}),
    "version text": ours({"version": "1"}),
    "version null": ours({"version": None}),
    "name over many lines": ours({"name": "mixer\n\x1b[2J" * 1000, "config.channels": 16}),
    "name a list": ours({"name": [["x" * 100] * 100], "config.channels": 16}),
    "too few class names": ours({"metadata.classes": ["cat", "dog"]}),
    "too many class names": ours({"metadata.classes": [f"class {i}" for i in range(100_000)]}),
    "class names a number": ours({"metadata.classes": 3}),
    "class name of nothing": ours({"metadata.classes": ["cat", "", "otter"]}),
    "class name of blanks": ours({"metadata.classes": ["cat", "  ", "otter"]}),
    "class name twice": ours({"metadata.classes": ["cat", "dog", "cat"]}),
    "class name of 1 MB": ours({"metadata.classes": ["cat", "x" * 1_000_000, "otter"]}),
    "class name half of a letter": ours({"metadata.classes": ["cat", "\ud800", "otter"]}),
    "class name for the terminal": ours({"metadata.classes": ["cat", "\x1b]52;c;aWQ=\x07", "otter"]}),
    "class name from right to left": ours({"metadata.classes": ["cat", "dog\u202egnp.exe", "otter"]}),
    "class name of two lines": ours({"metadata.classes": ["cat", "dog\nmixer: all is well", "otter"]}),
    "images cropped to other than the model takes": ours({"metadata.preprocessing.crop": [16, 16]}),
    "images less 3e38": ours({"metadata.preprocessing.mean": [3e38] * 3}),
    "images less 1e308": ours({"metadata.preprocessing.mean": [1e308] * 3}),
    "images divided by 1e-300": ours({"metadata.preprocessing.std": [1e-300] * 3}),
    "images divided by 1e-45": ours({"metadata.preprocessing.std": [1e-45] * 3}),
    "images divided by less than nothing": ours({"metadata.preprocessing.std": [-0.5] * 3}),
    "images divided by infinity": ours({"metadata.preprocessing.std": [math.inf] * 3}),
    "images of one statistic": ours({"metadata.preprocessing.mean": [0.5], "metadata.preprocessing.std": [0.5]}),
    "tables that end at 1e308": ours(
        {"metadata.layer_precisions": [{"kind": "int8", "normed": RANGE, "active": RANGE}, {"kind": "fp32"}]}
    ),
    "images cropped to 10^9 pixels": ours({"metadata.preprocessing.crop": [10**9, 10**9]}),
    "images cropped to nothing": ours({"metadata.preprocessing.crop": [0, 0]}),
    "images scaled to 10^9 pixels": ours({"metadata.preprocessing.resize": 10**9}),
    "images divided by 0": ours({"metadata.preprocessing.std": [0.5, 0, 0.5]}),
    "images less NaN": ours({"metadata.preprocessing.mean": [math.nan] * 3}),
    "images of unequal statistics": ours({"metadata.preprocessing.mean": [0.5]}),
    "images scaled by magic": ours({"metadata.preprocessing.interpolation": "magic"}),
    "metadata null": ours({"metadata": None}),
    "metadata with more": ours({"metadata.visa": "forever"}),
    "provenance a list": ours({"metadata.provenance": ["here"]}),
    "quirks no JSON": ours({"metadata.provenance": {"layout": "linen", "quirks": "strange"}}),
    "quirks unknown": ours({"metadata.provenance": {"layout": "linen", "quirks": '{"run": "rm"}'}}),
    "header empty": ours_saying(""),
    "header null": ours_saying("null"),
    "header a list": ours_saying("[]"),
    "header no JSON": ours_saying("{version: 1}"),
    "header nested": ours_saying("[" * 100_000),
    "header empty object": ours_saying("{}"),
    "wrong in every way": wrong_in_every_way,
    "other arrays than it says": lambda folder: ours({"config.gelu": "erf"})(folder).replace(
        b'"norm.bias"', b'"gone.bias"'
    ),
}


def foreign(arrays: Mapping[str, tuple[int, ...]]) -> Build:
    return lambda _: safe_arrays({name: torch.zeros(shape) for name, shape in arrays.items()})


BIT = {"stem.conv.weight": (64, 3, 7, 7), "stages.0.blocks.0.conv1.weight": (64, 64, 1, 1)}
HALONET = {
    **{"stem.conv1.conv.weight": (64, 3, 7, 7), "stages.0.0.self_attn.kv.weight": (16, 8, 1, 1)},
    **{"stages.0.0.conv1_1x1.conv.weight": (8, 64, 1, 1), "stages.0.0.conv3_1x1.conv.weight": (8, 8, 1, 1)},
    "stages.0.0.self_attn.pos_embed.height_rel": (27, 2),
}
BLOCK = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0"

FOREIGN: dict[str, Build] = {
    "nothing known": foreign({"w": (4,), "b": (4,)}),
    "marks only": foreign({"stem.proj.weight": (8, 3, 4, 4), "blocks.0.mlp_tokens.fc1.weight": (4, 4)}),
    "marks of the wrong shape": foreign({"stem.proj.weight": (8,), "blocks.0.mlp_tokens.fc1.weight": (4,)}),
    "block 9999": lambda folder: safe_arrays(timm(folder, {"blocks.9999.norm1.weight": torch.zeros(8)})),
    "block 99999": lambda folder: safe_arrays(timm(folder, {"blocks.99999.norm1.weight": torch.zeros(8)})),
    "block 10^50": lambda folder: safe_arrays(timm(folder, {f"blocks.1{'0' * 50}.norm1.weight": torch.zeros(8)})),
    "block minus one": lambda folder: safe_arrays(timm(folder, {"blocks.-1.norm1.weight": torch.zeros(8)})),
    "block in other digits": lambda folder: safe_arrays(timm(folder, {"blocks.١.norm1.weight": torch.zeros(8)})),
    "4,000 blocks of one array": lambda folder: safe_arrays(
        timm(folder, {f"blocks.{i}.norm1.weight": torch.zeros(8) for i in range(4_000)})
    ),
    "array missing": lambda folder: safe_arrays(timm(folder, {"norm.bias": None})),
    "array too many": lambda folder: safe_arrays(timm(folder, {"norm.more": torch.zeros(8)})),
    "array misshapen": lambda folder: safe_arrays(timm(folder, {"norm.bias": torch.zeros(9)})),
    "array without sides": lambda folder: safe_arrays(timm(folder, {"norm.bias": torch.tensor(1.0)})),
    "stem of two sides": lambda folder: safe_arrays(timm(folder, {"stem.proj.weight": torch.zeros(8, 48)})),
    "places that make no square": lambda folder: safe_arrays(
        timm(folder, {"blocks.0.mlp_tokens.fc1.weight": torch.zeros(4, 5)})
    ),
    "two types": lambda folder: safe_arrays(timm(folder, {"norm.bias": torch.zeros(8, dtype=torch.float16)})),
    "kernel of three sides": lambda folder: npz(
        linen(folder, {"MixerBlock_0/token_mixing/Dense_0/kernel": np.zeros((4, 4, 4), "f4")})
    ),
    "kernel of one side": lambda folder: npz(
        linen(folder, {"MixerBlock_0/token_mixing/Dense_0/kernel": np.zeros(4, "f4")})
    ),
    "BiT of 70 stages": foreign(
        BIT | {"head.fc.weight": (3, 9, 1, 1)} | {f"stages.{i}.blocks.0.norm1.weight": (1,) for i in range(70)}
    ),
    "BiT with one convolution twice": foreign(
        {
            "resnet/root_block/standardized_conv2d/kernel": (7, 7, 3, 64),
            "resnet/root_block/standardized_conv2d_3/kernel": (7, 7, 3, 64),
        }
    ),
    "HaloNet of 70 stages": foreign(HALONET | {f"stages.{i}.0.post_attn.weight": (1,) for i in range(70)}),
    "HaloNet whose tables have no sides": foreign(HALONET | {"stages.0.0.self_attn.pos_embed.height_rel": ()}),
    "HaloNet with a window of 10^4 pixels": foreign(
        HALONET | {"stages.0.0.self_attn.pos_embed.height_rel": (10**4, 2)}
    ),
    "ResNet of 70 stages": foreign(
        {"conv1.weight": (64, 3, 7, 7), "layer1.0.conv3.weight": (256, 64, 1, 1), "fc.weight": (3, 9)}
        | {f"layer{i + 1}.0.bn1.weight": (1,) for i in range(70)}
    ),
    "ResNet without positions": foreign(
        {"stem.conv1.conv.weight": (24, 3, 3, 3), "stem.conv2.conv.weight": (32, 24, 3, 3)}
        | {"stem.conv3.conv.weight": (64, 32, 3, 3), "stages.0.0.conv1_1x1.conv.weight": (64, 64, 1, 1)}
        | {"stages.0.0.self_attn.qkv.weight": (192, 64, 1, 1)}
    ),
    "ResNet whose table of positions has no sides": foreign(
        {"stem.conv1.conv.weight": (24, 3, 3, 3), "stem.conv2.conv.weight": (32, 24, 3, 3)}
        | {"stem.conv3.conv.weight": (64, 32, 3, 3), "stages.0.0.conv1_1x1.conv.weight": (64, 64, 1, 1)}
        | {"stages.0.0.self_attn.qkv.weight": (144, 64, 1, 1), "stages.0.0.self_attn.pos_emb": ()}
    ),
    "ViT of 200 channels": foreign(
        {
            "patch_embed.proj.weight": (200, 3, 4, 4),
            "pos_embed": (1, 4, 200),
            "blocks.0.attn.qkv.weight": (600, 200),
            "blocks.0.mlp.fc1.weight": (8, 200),
        }
    ),
    "ViT with no place": foreign(
        {"patch_embed.proj.weight": (8, 3, 4, 4), "cls_token": (1, 1, 8), "pos_embed": (1, 1, 8)}
        | {"blocks.0.attn.qkv.weight": (24, 8), "blocks.0.mlp.fc1.weight": (16, 8)}
    ),
    "ViT whose query has no sides": foreign({f"{BLOCK}/{name}/kernel": () for name in ("query", "key", "value")}),
    "every name begins with module.": lambda folder: safe_arrays(
        {f"module.{name}": array for name, array in timm(folder, {"head.bias": None}).items()}
    ),
}

CASES: dict[str, tuple[str, Build]] = {
    f"{kind}: {name}": (ending, build)
    for kind, ending, table in (
        ("stranger", ".pth", STRANGERS),
        ("safetensors", ".safetensors", SAFETENSORS),
        ("npz", ".npz", NPZ),
        ("pth", ".pth", PTH),
        ("ours", ".safetensors", HEADERS),
        ("foreign", ".bin", FOREIGN),
    )
    for name, build in table.items()
}
