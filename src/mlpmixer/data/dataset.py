"""Data sets and splits: named splits of labeled images, each in a fixed order."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlpmixer.data.images import ImageInput
from mlpmixer.errors import DataError, nearest
from mlpmixer.text import fault, printable

SPLITS = ("train", "val", "test")
SPLIT = re.compile(r"\w[\w .+-]{0,99}")  # the name of a split, which becomes a part of file names


class Split(ABC):
    """Labeled images by index.

    It holds where they are and never their pixels, so worker processes share it cheaply.

    Attributes:
        labels: (N,) int64, each an index into the classes of the data set.
    """

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> ImageInput:
        """An image as `images.decode` takes it: a path, the bytes of a file, or pixels.

        Raises:
            ImageError: It cannot be read.
        """

    @abstractmethod
    def where(self, index: int) -> str:
        """Where a person finds an image: a path, or its place in a larger file."""

    def trace(self, index: int) -> bytes:
        """Some bytes of an image that tell it from others, wherever its data set is stored."""
        image = self.read(index)
        if isinstance(image, np.ndarray):
            return image[:: max(1, len(image) // 8)].tobytes()
        return image if isinstance(image, bytes) else b""


class Part(Split):
    """Some images of another split, in the order of `indices`; `new_labels` where classes were renumbered."""

    def __init__(self, whole: Split, indices: np.ndarray, new_labels: np.ndarray | None = None):
        self.whole, self.indices = whole, indices
        self.labels = whole.labels[indices] if new_labels is None else new_labels

    def read(self, index: int) -> ImageInput:
        return self.whole.read(int(self.indices[index]))

    def where(self, index: int) -> str:
        return self.whole.where(int(self.indices[index]))

    def trace(self, index: int) -> bytes:
        return self.whole.trace(int(self.indices[index]))


class Joined(Split):
    """Several splits, one after the other."""

    def __init__(self, parts: Sequence[Split]):
        self.parts = parts
        self.labels = np.concatenate([part.labels for part in parts])
        self.ends = np.cumsum([len(part) for part in parts])

    def read(self, index: int) -> ImageInput:
        part, within = self._place(index)
        return part.read(within)

    def where(self, index: int) -> str:
        part, within = self._place(index)
        return part.where(within)

    def trace(self, index: int) -> bytes:
        part, within = self._place(index)
        return part.trace(within)

    def _place(self, index: int) -> tuple[Split, int]:
        which = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[which], int(index - (self.ends[which - 1] if which else 0))


class Pixels(Split):
    """Images of one size that are in memory or memory-mapped: (N, H, W) or (N, H, W, 3), uint8."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, name: str):
        assert pixels.dtype == np.uint8
        assert len(pixels) == len(labels)
        self.pixels, self.labels, self.name = pixels, labels.astype(np.int64), name

    def read(self, index: int) -> ImageInput:
        return self.pixels[index]

    def where(self, index: int) -> str:
        return f"{self.name}[{index}]"


class Texts:
    """Strings in one block of memory. (A list of millions would be copied, page by page, into every worker.)"""

    def __init__(self, texts: Sequence[str]):
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self.block = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self.ends[index - 1] if index else 0
        return self.block[start : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        source: What was opened, as a user would write it in any folder.
        classes: The names of the classes.
        splits: By name; train, val and test first.
    """

    source: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]

    def __post_init__(self) -> None:
        if (wrong := fault(self.classes)) is not None:
            raise DataError(f"{self.source} {wrong}; rename it")
        require_split_names(self.source, self.splits)
        for split in self.splits.values():
            for label in (int(split.labels.min()), int(split.labels.max())) if len(split) else ():
                if not 0 <= label < len(self.classes):
                    raise DataError(
                        f"{self.source} has the class number {label}, but {len(self.classes)} classes; "
                        "they count from 0"
                    )

    def __getitem__(self, split: str) -> Split:
        if split not in self.splits:
            has = ", ".join(self.splits)
            raise DataError(f"{self.source} has no split '{split}'{nearest(split, self.splits)} (it has {has})")
        return self.splits[split]


def require_split_names(source: str, names: Iterable[str]) -> None:
    for name in names:
        if not SPLIT.fullmatch(name):
            raise DataError(
                f"{source} has the split '{printable(name, 80)}'; call it by letters, digits, blanks and . + - only"
            )
