"""Reader of checkpoints in PyTorch's sharded format, which runs no code from them.

    .metadata      a pickle: the size of each tensor, its chunks, and where in which file each chunk lies
    __0_0.distcp   chunks one after the other, each as torch.save writes a tensor: a zip of a pickle and the numbers

PyTorch's own reader unpickles the first as it comes, and what a chunk's table calls bytes as well: their author
could have run anything here. Both pickles are parsed as data instead (`pickled.parse`), and accepted only if they
describe tensors.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from mlpmixer import files
from mlpmixer.train.pickled import Call, Name, Pairs, parse

METADATA = ".metadata"
MOST = 1 << 28  # bytes of it; 64 processes that share the largest model here write a fifth of that
MAX_SIDES, MAX_CHUNKS, MOST_NUMBERS = 8, 1 << 16, 1 << 48  # of a tensor
AROUND = 1 << 16  # bytes at most that torch.save adds to a tensor's numbers

DTYPES = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch BoolStorage": torch.bool,
}
OURS = "torch.distributed.checkpoint"

Sides = tuple[int, ...]


@dataclass(frozen=True)
class Chunk:
    offsets: Sides
    sizes: Sides


@dataclass(frozen=True)
class Place:
    file: str
    begin: int
    length: int


def read_into(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fills `tensors`, by their names; of each the part that this process has.

    Raises:
        OSError, ValueError: Something is not as it should be; some tensors may be filled then.
    """
    pickled = files.read(files.below(folder, METADATA), MOST, follow=False)
    metadata = _fields(parse(pickled), f"{OURS}.metadata Metadata")
    claims = dict(_named(_field(metadata, "state_dict_metadata", Pairs)))
    places = _places(_field(metadata, "storage_data", Pairs))
    for name, tensor in tensors.items():
        if name not in claims:
            raise ValueError(f"it has no {name}")
        sizes, chunks = _claim(claims[name])
        if sizes != tuple(tensor.shape):
            raise ValueError(f"{name} is {_by(sizes)}, not {_by(tuple(tensor.shape))}")
        local, mine = _own(tensor.detach())
        filled = 0
        for chunk in chunks:
            common = _common(mine, chunk)
            if common is None:
                continue
            place = places.get((name, chunk.offsets))
            if place is None:
                raise ValueError(f"{name} is not in its files")
            most = math.prod(chunk.sizes) * local.element_size() + AROUND
            piece = _tensor(_cut_out(folder, place, most), name)
            if piece.shape != chunk.sizes or piece.dtype != local.dtype:
                raise ValueError(f"{name} is not as {METADATA} describes it")
            local[_within(common, mine)].copy_(piece[_within(common, chunk)])
            filled += math.prod(common.sizes)
        if filled != local.numel():
            raise ValueError(f"{name} is not whole")


def _own(tensor: Tensor) -> tuple[Tensor, Chunk]:
    """The part of a tensor that is on this device, and which part that is."""
    if not isinstance(tensor, DTensor):
        return tensor, Chunk((0,) * tensor.dim(), tuple(tensor.shape))
    sizes, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tensor.to_local(), Chunk(tuple(offsets), tuple(sizes))


def _common(one: Chunk, other: Chunk) -> Chunk | None:
    """What is in both; None if nothing is."""
    begins = tuple(map(max, one.offsets, other.offsets))
    ends = map(min, _ends(one), _ends(other))
    sizes = tuple(end - begin for begin, end in zip(begins, ends, strict=True))
    return Chunk(begins, sizes) if all(size > 0 for size in sizes) else None


def _ends(chunk: Chunk) -> Sides:
    return tuple(offset + size for offset, size in zip(chunk.offsets, chunk.sizes, strict=True))


def _within(part: Chunk, whole: Chunk) -> tuple[slice, ...]:
    begins = [inner - outer for inner, outer in zip(part.offsets, whole.offsets, strict=True)]
    return tuple(slice(begin, begin + size) for begin, size in zip(begins, part.sizes, strict=True))


def _claim(about: Any) -> tuple[Sides, list[Chunk]]:
    """A tensor's size and its chunks."""
    fields = _fields(about, f"{OURS}.metadata TensorStorageMetadata")
    chunks = _field(fields, "chunks", list)
    if len(chunks) > MAX_CHUNKS:
        raise ValueError(f"a tensor in {len(chunks):,} chunks")
    sizes, found = _sides(fields.get("size")), []
    for chunk in chunks:
        parts = _fields(chunk, f"{OURS}.metadata ChunkStorageMetadata")
        found.append(Chunk(_sides(parts.get("offsets")), _sides(parts.get("sizes"))))
        if len(found[-1].offsets) != len(sizes) or len(found[-1].sizes) != len(sizes):
            raise ValueError("a chunk of other sides than its tensor")
    return sizes, found


def _places(stored: Pairs) -> dict[tuple[str, Sides], Place]:
    """Where each chunk lies, by its tensor's name and where it begins in that. What is no tensor begins nowhere."""
    found = {}
    for index, about in stored:
        key = _fields(index, f"{OURS}.metadata MetadataIndex")
        place = _fields(about, f"{OURS}.filesystem _StorageInfo")
        if place.get("transform_descriptors"):
            raise ValueError("it is packed in a way that is not known here")
        if key.get("offset") is not None:
            file, begin, length = (place.get(field) for field in ("relative_path", "offset", "length"))
            where = Place(_is(file, str), _is(begin, int), _is(length, int))
            found[_is(key.get("fqn"), str), _sides(key["offset"])] = where
    return found


def _cut_out(folder: Path, place: Place, most: int) -> bytes:
    if place.file != Path(place.file).name or not 0 < place.length <= most or not 0 <= place.begin <= MOST_NUMBERS:
        raise ValueError(f"{METADATA} names a place that cannot be")
    with files.open_regular(files.below(folder, place.file), follow=False) as file:
        file.seek(0, io.SEEK_END)
        if place.begin + place.length > file.tell():
            raise ValueError(f"{place.file} is shorter than {METADATA} has it")
        file.seek(place.begin)
        return file.read(place.length)


def _tensor(saved: bytes, name: str) -> Tensor:
    """What torch.save has written of one tensor."""
    try:
        with zipfile.ZipFile(io.BytesIO(saved)) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
                raise ValueError("a compressed zip, which torch.save does not write")
            if archive.read(members["byteorder"]).decode() != sys.byteorder:
                raise ValueError("from a machine that orders bytes otherwise")
            description = parse(archive.read(members["data.pkl"]))
            numbers = archive.read(members["data/0"])
    except Exception as error:  # zipfile fails in many ways
        raise ValueError(f"{name} is no tensor ({error})") from error
    arguments = _called(description, "torch._utils _rebuild_tensor_v2")
    storage, begin, sizes, strides = arguments[:4] if len(arguments) >= 4 else (None,) * 4
    about = _called(storage, "persistent")
    dtype = DTYPES.get(about[1]) if len(about) == 5 and type(about[1]) is Name else None
    if dtype is None or about[2] != "0":
        raise ValueError(f"{name} is no tensor of numbers")
    sizes, strides = _checked(sizes), _checked(strides)
    if 0 in sizes:
        return torch.empty(sizes, dtype=dtype)
    begin = int(_is(begin, int))
    last = begin + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    count = len(numbers) // dtype.itemsize
    if begin < 0 or last >= count:
        raise ValueError(f"{name} holds fewer numbers than its size")
    return torch.frombuffer(bytearray(numbers), dtype=dtype, count=count).as_strided(sizes, strides, begin)


def _called(made: Any, function: str) -> tuple[Any, ...]:
    """What a function was given, if it is that one."""
    of_it = isinstance(made, Call) and made.function == function and isinstance(made.arguments, tuple)
    return made.arguments if of_it else ()


def _fields(made: Any, kind: str) -> dict[str, Any]:
    """The state of an object of that class."""
    if not isinstance(made, Call) or made.function != kind or not isinstance(made.state, Pairs):
        raise ValueError(f"{METADATA} is not what PyTorch writes")
    return dict(_named(made.state))


def _named(pairs: Pairs) -> list[tuple[str, Any]]:
    return [(_is(name, str), value) for name, value in pairs]


def _field(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    return _is(fields.get(name), kind)


def _is(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{METADATA} is not what PyTorch writes")
    return value


def _sides(size: Any) -> Sides:
    """Of a torch.Size: how long each side is, or where on it something begins."""
    (sides,) = _called(size, "torch Size") or (None,)
    return _checked(sides)


def _checked(sides: Any) -> Sides:
    if type(sides) is not tuple or len(sides) > MAX_SIDES or any(type(side) is not int or side < 0 for side in sides):
        raise ValueError("there are sizes that cannot be")
    if math.prod(max(side, 1) for side in sides) > MOST_NUMBERS:
        raise ValueError("there are sizes that cannot be")
    return sides


def _by(sizes: Sides) -> str:
    return "×".join(map(str, sizes)) or "a single number"
