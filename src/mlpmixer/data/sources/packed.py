"""Packed data sets: pictures that were decoded once, as bytes to be mapped into memory, in a folder with a manifest.

    packed.json         what is here, where it came from, how it was made, length and SHA-256 of every file
    train.pixels        uint8: picture after picture, row after row, red green blue
    train.sizes.npy     (N, 2) int32, the height and width of each
    train.labels.npy    (N,) int64
    train.where.txt     a line for each: where it came from, as a JSON string

and so on for each split. The same pictures give the same bytes.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlpmixer.data.dataset import DataSet, Split, Texts
from mlpmixer.errors import DataError

MANIFEST = "packed.json"
VERSION = 1


class Packed(Split):
    """A split of a packed data set. What is copied to another process is its place; each maps the files for itself."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        # Mapped first: a file that claims to hold more than it does is refused before any memory is set aside.
        self.labels = np.array(np.load(folder / f"{name}.labels.npy", mmap_mode="r"))
        self.sizes = np.array(np.load(folder / f"{name}.sizes.npy", mmap_mode="r"))
        self.ends = np.cumsum(3 * self.sizes.prod(axis=1, dtype=np.int64))  # of the pictures among the pixels, in bytes

    def __reduce__(self) -> tuple[type[Packed], tuple[Path, str]]:
        return Packed, (self.folder, self.name)

    def read(self, index: int) -> np.ndarray:
        """(H, W, 3), read-only."""
        height, width = self.sizes[index].tolist()
        end = int(self.ends[index])
        return self._pixels[end - 3 * height * width : end].reshape(height, width, 3)

    def where(self, index: int) -> str:
        return self._where[index]

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.asarray(np.memmap(self.folder / f"{self.name}.pixels", np.uint8, "r"))  # plain arrays slice faster

    @cached_property
    def _where(self) -> Texts:
        text = (self.folder / f"{self.name}.where.txt").read_text("utf-8", "surrogateescape")
        return Texts([json.loads(line) for line in text.split("\n") if line])


def is_packed(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def open_packed(folder: Path) -> DataSet:
    try:
        manifest = read_manifest(folder)
        splits = {name: Packed(folder, name) for name in manifest["splits"]}
        for split in splits.values():
            _check(split, len(manifest["classes"]))
        return DataSet(str(folder), tuple(manifest["classes"]), splits)
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError) as error:
        raise DataError(f"{folder} is a damaged packed data set ({_words(error)}); copy it or pack it again") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """What packed.json says, once all files that it names are seen to have their lengths."""
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    if manifest["version"] != VERSION:
        raise ValueError(f"version {manifest['version']}, of which this mlpmixer knows nothing")
    for name, file in manifest["files"].items():
        actual = (folder / name).stat().st_size
        if actual != file["bytes"]:
            raise ValueError(f"{name} has {actual:,} bytes, not {file['bytes']:,}")
    return manifest


def _check(split: Packed, classes: int) -> None:
    """So that no index can lead outside the pixels or the classes."""
    count, pixels = len(split.labels), (split.folder / f"{split.name}.pixels").stat().st_size
    fits = split.sizes.shape == (count, 2) and (split.sizes > 0).all() and int(split.ends[-1:].sum()) == pixels
    known = split.labels.shape == (count,) and split.labels.dtype == np.int64
    known = known and bool(((split.labels >= 0) & (split.labels < classes)).all())
    if not fits or not known:
        raise ValueError(f"{split.name}: {'labels' if fits else 'sizes'} that do not fit")


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(error.filename or '').name}: {error.strerror}"
    return f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
