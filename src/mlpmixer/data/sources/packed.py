"""Packed data sets: images that were decoded once, as bytes to be mapped into memory, in a folder with a manifest.

    packed.json         what is here, where it came from, how it was made, length and SHA-256 of every file
    train.pixels        uint8: image after image, row after row, red green blue
    train.sizes.npy     (N, 2) int32, the height and width of each
    train.labels.npy    (N,) int64
    train.where.txt     a line for each: where it came from, as a JSON string

and so on for each split. The same images give the same bytes.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlpmixer.data.dataset import DataSet, Split, Texts, require_split_names
from mlpmixer.data.sources.arrays import read_array
from mlpmixer.errors import DataError
from mlpmixer.files import open_regular, read, read_text
from mlpmixer.text import fault, first_line

MANIFEST = "packed.json"
FILES = ("pixels", "sizes.npy", "labels.npy", "where.txt")  # of each split
VERSION = 2


class OtherVersion(DataError):
    """Nothing is damaged, but packed by another version of mlpmixer."""


class Packed(Split):
    """A split of a packed data set. What is copied to another process is its place; each maps the files for itself."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.labels = _array(folder / f"{name}.labels.npy", "<i8", 1)
        self.sizes = _array(folder / f"{name}.sizes.npy", "<i4", 2)
        self.ends = np.cumsum(3 * self.sizes.prod(axis=1, dtype=np.int64))  # of the images among the pixels, in bytes

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
        path = self.folder / f"{self.name}.where.txt"
        try:
            text = read(path).decode("utf-8", "surrogateescape")
            places = [json.loads(line) for line in text.split("\n") if line]
            if len(places) != len(self.labels) or not all(isinstance(place, str) for place in places):
                raise ValueError(f"{len(self.labels)} places were expected")
            return Texts(places)
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({_words(error)}); copy it or pack it again") from error


def is_packed(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def open_packed(folder: Path) -> DataSet:
    try:
        manifest = read_manifest(folder)
        splits = {name: Packed(folder, name) for name in manifest["splits"]}
        for split in splits.values():
            _check(split, len(manifest["classes"]))
        return DataSet(str(folder), tuple(manifest["classes"]), splits)
    except OtherVersion:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{folder} is a damaged packed data set ({_words(error)}); copy it or pack it again") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """What packed.json says, once classes and splits are seen to be such, and all files to have their lengths."""
    manifest = json.loads(read_text(folder / MANIFEST))
    if not isinstance(version := manifest["version"], int):
        raise ValueError(f"version {version}, and this mlpmixer reads {VERSION}")
    if version != VERSION:
        made = "an older" if version < VERSION else "a newer"
        raise OtherVersion(
            f"{folder} was packed by {made} mlpmixer (format {version}; this one reads {VERSION}); pack it again"
        )
    wrong = "has no list of classes" if not isinstance(manifest["classes"], list) else fault(manifest["classes"])
    if wrong is not None:
        raise ValueError(f"it {wrong}")
    require_split_names("it", manifest["splits"])
    expected = {f"{split}.{ending}" for split in manifest["splits"] for ending in FILES}
    if {*manifest["files"]} != expected:
        raise ValueError("other files than its splits have")
    for name, file in manifest["files"].items():
        with open_regular(folder / name) as opened:
            actual = os.fstat(opened.fileno()).st_size
        if actual != file["bytes"]:
            raise ValueError(f"{name} has {actual:,} bytes, not {file['bytes']:,}")
    return manifest


def _array(path: Path, dtype: str, dimensions: int) -> np.ndarray:
    with open_regular(path) as file:
        return read_array(file, dtype, dimensions)


def _check(split: Packed, classes: int) -> None:
    """So that no index can lead outside the pixels or the classes."""
    count, pixels = len(split.labels), (split.folder / f"{split.name}.pixels").stat().st_size
    # No image has more than all together, and the ends only grow: else a product or a sum went beyond 64 bits.
    fits = split.sizes.shape == (count, 2) and bool(((split.sizes > 0) & (split.sizes <= pixels)).all())
    fits = fits and bool((split.sizes.prod(axis=1, dtype=np.int64) <= pixels // 3).all())
    fits = fits and bool((split.ends[1:] > split.ends[:-1]).all()) and int(split.ends[-1:].sum()) == pixels
    known = bool(((split.labels >= 0) & (split.labels < classes)).all())
    if not fits or not known:
        raise ValueError(f"{split.name}: {'labels' if fits else 'sizes'} that do not fit")


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(error.filename or '').name}: {error.strerror}"
    return first_line(f"no {error}" if isinstance(error, KeyError) else error)
