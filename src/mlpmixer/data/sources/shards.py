"""WebDataset shards: .tar files in which an image and its label stand one after the other under one name.

A spec is a .tar file, a folder of them, or a pattern for many: `{000..011}` counts, `{a,b}` lists, and `*` and `?`
stand for anything, though not in an http(s) address. Which split a shard belongs to is the first word of its name that
says so, then the name of its folder, and otherwise train: `{train-{000..099},val-{00..04}}.tar` has two.

Within a shard, `0001.jpg` and `0001.cls` are one sample. The label is the text of .cls, "label" in .json, or the number
in .txt: a class's name, or its number from 0. classes.txt beside the shards, a name on each line, or "classes" in
dataset.json may name the classes. Shards from the network are brought whole into the cache folder, and read there.
Whether there is a classes.txt is for the server to say: 403, 404 and 410 mean that there is none, all else is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

import numpy as np

from mlpmixer.data.dataset import DataSet, Split, Texts
from mlpmixer.data.sources.folder import look
from mlpmixer.data.sources.naming import SPLIT_WORDS, in_order, names_beside, number, split_within
from mlpmixer.data.sources.tar_index import TarIndex, tar_index
from mlpmixer.download import bring, require_address
from mlpmixer.errors import DataError, ImageError, NotThere, nearest
from mlpmixer.files import MOST, cache_folder, open_regular
from mlpmixer.machine.progress import progress_bar

MAX_SHARDS = 100_000
MAX_NAMES = 10_000_000  # bytes
MAX_OPEN = 128  # files, for each process


class Shards(Split):
    """Images within .tar files. Each process opens the files anew, and none has a position in them."""

    def __init__(self, paths: Sequence[Path], indices: Sequence[TarIndex], labels: np.ndarray):
        self.paths, self.labels = tuple(paths), labels
        self.ends = np.cumsum([len(index.names) for index in indices])
        self.offsets = np.concatenate([index.offsets for index in indices])
        self.sizes = np.concatenate([index.sizes for index in indices])
        self.names = Texts([name for index in indices for name in index.names])
        self._files: dict[Path, _File] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": {}}

    def read(self, index: int) -> bytes:
        path, size = self._path(index), int(self.sizes[index])
        if size > MOST:
            raise ImageError(f"{self.where(index)} is larger than an image may be")
        try:
            content = self._file(path).read(size, int(self.offsets[index]))
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror}") from error
        if len(content) < size:
            raise ImageError(f"{path} was cut short after it was opened")
        return content

    def where(self, index: int) -> str:
        return f"{self._path(index)}/{self.names[index]}"

    def trace(self, index: int) -> bytes:
        return b"%s\0%d" % (os.fsencode(self.names[index]), self.sizes[index])

    def _path(self, index: int) -> Path:
        return self.paths[int(np.searchsorted(self.ends, index, side="right"))]

    def _file(self, path: Path) -> _File:
        files = self._files
        if path in files:
            return files[path]
        file = _File(path)
        # Another dictionary each time: threads that come at once cannot fill one beyond its measure.
        self._files = {**(files if len(files) < MAX_OPEN else {}), path: file}
        return file


class _File:
    """An open file, closed when no one holds it any more: another thread may still be reading."""

    def __init__(self, path: Path):
        self.descriptor = -1
        with open_regular(path) as file:
            self.descriptor = os.dup(file.fileno())

    def read(self, size: int, offset: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.descriptor >= 0:
            close(self.descriptor)


def is_shards(path: Path) -> bool:
    """Whether it is a .tar file or a pattern for some, or a folder with them but without folders, or of such splits."""
    if not path.is_dir():
        return path.name.endswith((".tar", ".tar}"))
    folders, files = look(path, (".tar",))
    return bool(_in_splits(path, folders) or (files and not folders))


def open_shards(path: Path) -> DataSet:
    if path.is_dir():
        folders, files = look(path, (".tar",))
        files = [*(path / name for name in files), *_in_splits(path, folders)]
        names = names_beside(path)
    else:
        patterns = [str(path)] if path.is_file() else expand(str(path))
        files = [file for pattern in patterns for file in _matches(Path(pattern))]
        names = names_beside(files[0].parent)
    return _data_set(str(path), [(file, file.as_posix()) for file in files], names)


def open_addresses(spec: str) -> DataSet:
    addresses = expand(spec)
    for address in addresses:
        require_address(address)
        if not urlsplit(address).path.endswith(".tar") or "*" in address:
            raise DataError(
                f"cannot open {address}; what is opened from the network are .tar shards, with a pattern such as "
                "https://host/train-{000..011}.tar"
            )
    shards = [(_cached(address), address) for address in addresses]
    if not all(path.is_file() for path, _ in shards):
        with contextlib.suppress(NotThere):  # whoever has no names for the classes has no such file
            address = urljoin(addresses[0], "classes.txt")
            bring(address, _cached(address), most=MAX_NAMES)
    for path, address in shards:
        bring(address, path)
    names = names_beside(shards[0][0].parent)
    return _data_set(spec, [(path, urlsplit(address).path) for path, address in shards], names)


def _cached(address: str) -> Path:
    name = PurePosixPath(urlsplit(address).path).name
    digest = hashlib.sha256(urljoin(address, "./").encode()).hexdigest()[:8]
    return cache_folder() / "shards" / digest / name


def _data_set(source: str, shards: Sequence[tuple[Path, str]], names: tuple[str, ...] | None) -> DataSet:
    """From shards, each with the path that tells its split."""
    by_split: dict[str, list[tuple[Path, TarIndex]]] = {}
    with progress_bar(len(shards) > 1) as show:
        for done, (path, name) in enumerate(shards):
            show("reading the shards", done, len(shards))
            pure = PurePosixPath(name)
            split = split_within(pure.stem) or SPLIT_WORDS.get(pure.parent.name.lower()) or "train"
            by_split.setdefault(split, []).append((path, tar_index(path)))
    labels = {split: [text for _, index in by_split[split] for text in index.labels] for split in in_order(by_split)}
    classes, numbers = number(labels, source, names)
    return DataSet(
        source,
        classes,
        {
            split: Shards(
                [path for path, _ in by_split[split]], [index for _, index in by_split[split]], numbers[split]
            )
            for split in labels
        },
    )


def _in_splits(path: Path, folders: Sequence[str]) -> list[Path]:
    """The .tar files in those folders that are called train, val or test."""
    splits = [path / name for name in folders if name.lower() in SPLIT_WORDS]
    return [split / name for split in splits for name in look(split, (".tar",))[1]]


def expand(pattern: str) -> list[str]:
    """All that a pattern with braces stands for, as in a shell: `{8..11}`, `{008..011}` and `{a,b}`, one in another."""
    opening = pattern.find("{")
    if opening < 0:
        if "}" in pattern:
            raise DataError(f"'{pattern}' has a brace that was never opened")
        return [pattern]
    depth, commas, closing = 0, [opening], -1
    for place in range(opening, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[place], 0)
        if depth == 1 and pattern[place] == ",":
            commas.append(place)
        if depth == 0:
            closing = place
            break
    if closing < 0:
        raise DataError(f"'{pattern}' has a brace that is never closed")
    before, after = pattern[:opening], pattern[closing + 1 :]
    pieces = [pattern[a + 1 : b] for a, b in itertools.pairwise([*commas, closing])]
    middles = [text for piece in pieces for text in expand(piece)] if len(pieces) > 1 else _count(pattern, pieces[0])
    endings = expand(after)
    if len(middles) * len(endings) > MAX_SHARDS:
        raise DataError(f"'{pattern}' stands for more than {MAX_SHARDS:,} shards; is that what you meant?")
    return [before + middle + ending for middle in middles for ending in endings]


def _count(pattern: str, piece: str) -> list[str]:
    """`008..011`, with as many digits as that; `8..11`, with as few as possible."""
    extent = re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", piece)
    if not extent or int(extent[2]) < int(extent[1]):
        raise DataError(
            f"'{pattern}' has '{{{piece}}}', which is neither a range such as {{000..011}} nor a list {{a,b}}"
        )
    first, last = extent[1], extent[2]
    width = len(first) if first.startswith("0") else 0
    return [f"{place:0{width}}" for place in itertools.islice(range(int(first), int(last) + 1), MAX_SHARDS + 1)]


def _matches(path: Path) -> list[Path]:
    """The shards that a path with `*`, `?` and `[...]` stands for."""
    if path.is_file():
        return [path]
    if set("*?[") & set(str(path)):
        if found := sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
            return found
        raise DataError(f"no file fits the pattern {path}")
    beside = [file.name for file in path.parent.glob("*.tar")]
    raise DataError(f"there is no shard {path}{nearest(path.name, beside)}")
