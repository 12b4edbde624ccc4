"""Index of a .tar file: where its images and labels are, so that any of them can be read without the others.

A tar file has no table of contents: its headers are read once, and what they say is kept beside it as .NAME.index, or
in the cache where that cannot be written. The index is made anew when size or time of the file have changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from mlpmixer.data.sources.arrays import read_array
from mlpmixer.data.sources.naming import EXTENSIONS
from mlpmixer.errors import DataError
from mlpmixer.files import cache_folder, open_regular, whole

LABELS = (".cls", ".json", ".txt")  # where a sample has several, the first of these counts
MAX_LABEL = 1 << 20  # bytes
MAX_AT_ONCE = 1 << 20  # bytes of a name or of another header
VERSION = 2  # of the kept index


@dataclass(frozen=True)
class TarIndex:
    """The samples of a .tar file, in its order."""

    names: list[str]  # of the images, within the tar file
    offsets: np.ndarray  # (N,) int64, bytes
    sizes: np.ndarray  # (N,) int64, bytes
    labels: list[str]


def tar_index(path: Path) -> TarIndex:
    """The index of a .tar file, read from where it was saved, or made and saved.

    Raises:
        DataError: The file cannot be read, is damaged, or has images without labels.
    """
    try:
        status = path.stat()
        stamp = np.array([VERSION, status.st_size, status.st_mtime_ns])
        places = _places(path)
        for place in places:
            if (kept := _load(place, stamp, status.st_size)) is not None:
                return kept
        index = _scan(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    for place in places:
        if _save(place, stamp, index):
            break
    return index


def _places(path: Path) -> tuple[Path, Path]:
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return path.with_name(f".{path.name}.index"), cache_folder() / "index" / f"{digest}.index"


def _load(place: Path, stamp: np.ndarray, size: int) -> TarIndex | None:
    """A saved index; None where there is none, or it is outdated, damaged or leads outside the file."""
    try:
        with open_regular(place) as file:
            if not np.array_equal(read_array(file, "<i8", 1), stamp):
                return None
            names, texts = _split(read_array(file, "|u1", 1)), _split(read_array(file, "|u1", 1))
            offsets, sizes = read_array(file, "<i8", 1), read_array(file, "<i8", 1)
            codes = read_array(file, "<i4", 1)
    except (OSError, ValueError):
        return None
    same_length = len(names) == len(offsets) == len(sizes) == len(codes)
    if not same_length or not ((codes >= 0) & (codes < len(texts))).all() or not all(map(_is_label, texts)):
        return None
    if not ((offsets >= 0) & (offsets <= size) & (sizes >= 0) & (sizes <= size - offsets)).all():
        return None
    return TarIndex(names, offsets, sizes, [texts[code] for code in codes.tolist()])


def _save(place: Path, stamp: np.ndarray, index: TarIndex) -> bool:
    texts, codes = np.unique(np.array(index.labels, dtype=object), return_inverse=True)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole(place) as part, part.open("wb") as file:
            for array in (stamp, _join(index.names), _join(texts.tolist()), index.offsets, index.sizes):
                np.save(file, array)
            np.save(file, codes.astype(np.int32))
    except OSError:
        return False
    return True


def _join(texts: Sequence[str]) -> np.ndarray:
    """As bytes, with a zero between two: the one that no name in a tar file can have."""
    return np.frombuffer("\0".join(texts).encode("utf-8", "surrogateescape"), dtype=np.uint8)


def _split(block: np.ndarray) -> list[str]:
    return block.tobytes().decode("utf-8", "surrogateescape").split("\0")


def bounded_tar(file: BinaryIO, at_once: int, end: int = 1 << 62) -> tarfile.TarFile:
    """A tar archive that reads at most `at_once` bytes at once, and none beyond `end`: `tarfile` itself believes what a
    header claims, even the length of a name."""
    return tarfile.open(fileobj=cast(Any, _BoundedFile(file, at_once, end)), mode="r:")


class _BoundedFile:
    def __init__(self, file: BinaryIO, at_once: int, end: int):
        self.file, self.at_once, self.end = file, at_once, end
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if size > self.at_once:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.file.read(size)

    def seek(self, offset: int) -> int:
        if offset > self.end:
            raise tarfile.ReadError("it goes on for longer than it may")
        return self.file.seek(offset)


_Member = tuple[int, str, int, int]  # rank of its extension, name, offset, size


def _scan(path: Path) -> TarIndex:
    images: dict[str, _Member] = {}
    labels: dict[str, _Member] = {}
    with open_regular(path) as file:
        try:
            with bounded_tar(file, MAX_AT_ONCE) as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # or it keeps them all  # pyright: ignore[reportAttributeAccessIssue]
                    if "\0" in member.name:
                        raise tarfile.ReadError("zero in a name")
                    if member.isreg() and not member.issparse():
                        _add(member, images, EXTENSIONS)
                        _add(member, labels, LABELS)
                end = tar.offset
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise DataError(f"{path} is damaged, cut short, or no tar file ({error}); get or make it again") from error
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DataError(f"{path} is damaged or cut short: the mark that ends a tar file is missing; make it again")
        for key, (rank, name, _, _) in labels.items():
            if key not in images and LABELS[rank] == ".cls":  # the others may be about something else
                raise DataError(f"{path} has {name!r}, but no image with that name ({' '.join(EXTENSIONS)})")
        if not images:
            raise DataError(f"{path} holds no images ({' '.join(EXTENSIONS)})")
        return TarIndex(
            [name for _, name, _, _ in images.values()],
            np.array([offset for _, _, offset, _ in images.values()], dtype=np.int64),
            np.array([size for _, _, _, size in images.values()], dtype=np.int64),
            [_label(path, file, name, labels.get(key)) for key, (_, name, _, _) in images.items()],
        )


def _add(member: tarfile.TarInfo, found: dict[str, _Member], extensions: Sequence[str]) -> None:
    """Add a member under its key, unless it is of another kind, or a better one is there."""
    folder, slash, base = member.name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or dot + extension.lower() not in extensions:
        return
    rank, key = extensions.index(dot + extension.lower()), folder + slash + stem
    if key not in found or rank <= found[key][0]:
        found[key] = (rank, member.name, member.offset_data, member.size)


def _label(path: Path, file: BinaryIO, image: str, member: _Member | None) -> str:
    if member is None:
        raise DataError(f'{path} has {image!r}, but no label with that name (.cls, .txt, or .json with "label")')
    rank, name, offset, size = member
    file.seek(offset)
    try:
        text = file.read(min(size, MAX_LABEL)).decode()
        label = _in_json(text) if LABELS[rank] == ".json" else text.strip()
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} has no label in {name!r}, where a class is expected ({type(error).__name__})"
        ) from error
    if not _is_label(label) or (LABELS[rank] == ".txt" and not label.isdigit()):
        raise DataError(f"{path} has no class in {name!r}, but {label[:40]!r}")
    return label


def _is_label(text: str) -> bool:
    return bool(text) and text.isprintable()


def _in_json(text: str) -> str:
    label = json.loads(text)["label"]
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise TypeError
    return str(label)
